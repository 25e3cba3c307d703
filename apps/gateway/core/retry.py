"""When a failed attempt may be made again: only when the client can't tell the difference.

Owns the rule alone; who is asked next is apps.gateway.core.balance.
"""

from __future__ import annotations

from apps.gateway.core.config import Route

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""

RETRY_STATUS = frozenset({502, 503, 504})
"""Answers that say the instance, not the request, is at fault."""

REPLAY_BYTES = 65_536
"""A request body up to this size is kept so that it can be sent again."""


def may_retry(method: str, *, attempts: int, retries: int, sent: bool, answered: bool, replayable: bool) -> bool:
    """Whether attempt number ``attempts`` may be followed by another.

    ``sent``: a byte of the request may have reached an instance, so only an idempotent method may go again.
    ``answered``: a byte of a response went to the client, so nothing may.
    """
    if answered or not replayable or attempts > retries:
        return False
    return not sent or method in IDEMPOTENT


def worth_another(status: int, failed_dependency: bool) -> bool:
    """Whether a complete answer is a reason to ask another instance; a dependency's failure would meet it there too."""
    return status in RETRY_STATUS and not failed_dependency


def in_words(route: Route) -> str:
    """How long a service is waited for and how often it is asked, for a person."""
    per_try = route.per_try_timeout or route.timeout / 2
    again = f"up to {route.retries} more when idempotent, each after {per_try:g} s" if route.retries else "no retries"
    return f"answers within {route.timeout:g} s, {again}; bodies silent for {route.idle_timeout:g} s at most"
