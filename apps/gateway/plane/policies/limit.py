"""How many requests a caller may make: the route's rate limit, or the caller's own in its place.

Waits for the shared bucket's word when this worker holds nothing of it (apps.gateway.plane.limiter).
"""

from __future__ import annotations

from functools import partial

from apps.gateway.core import limits
from apps.gateway.core.chain import Call, Later
from apps.gateway.core.config import Route
from apps.gateway.plane.policies.parts import NOTHING, Bound, Lease, Parts, Policy

AWAITING_LIMIT = "awaiting_limit"


def bind(route: Route, parts: Parts) -> Bound:
    """Nothing where neither the route nor anyone who may prove who it is has a limit."""
    if route.rate_limit is None and not (route.auth and parts.limited_callers):
        return NOTHING
    own, lease_of = route.rate_limit, parts.limiter.lease

    def ask(call: Call) -> Later | None:
        identity = call.identity
        if identity is not None:
            limit, subject = identity.rate_limit or own, identity.consumer
        else:
            limit, subject = own, limits.subject(call.client, call.head)
        lease = lease_of(limit, subject) if limit is not None else None
        if lease is None:
            return None
        allowed = lease.take(call.now, call)
        if allowed is None:
            return Later(AWAITING_LIMIT, partial(_heard, lease))
        call.extra += lease.fields()
        if not allowed:
            raise limits.refused(lease.limit, lease.retry_after)
        return None

    return Bound(ask)


def _heard(lease: Lease, call: Call, allowed: bool) -> None:
    call.extra += lease.fields()
    if not allowed:
        raise limits.refused(lease.limit, lease.retry_after)


POLICY = Policy("limit", "Rate limit", bind, limits.in_words)
