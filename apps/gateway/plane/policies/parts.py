"""What a policy is made of, and what of a worker and a revision it is bound to.

Knows no policy; each has a file beside this one, and apps.gateway.plane.policies.order has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from apps.gateway.core.auth import Keyring, KeySets, Tokens
from apps.gateway.core.chain import AnswerHook, Call, RequestHook
from apps.gateway.core.config import Issuer, RateLimit, Route


class Lease(Protocol):
    """One subject's requests under one limit; apps.gateway.plane.limiter.Lease."""

    limit: RateLimit
    retry_after: float

    def take(self, now: float, waiter: Call) -> bool | None: ...

    def fields(self) -> bytes: ...


class Limiter(Protocol):
    """Rate limits that all workers share; apps.gateway.plane.limiter."""

    def lease(self, policy: str, subject: str) -> Lease | None: ...


class KeyStore(Protocol):
    """Issuers' key sets; apps.gateway.plane.jwks."""

    @property
    def sets(self) -> KeySets: ...

    def want(self, issuer: Issuer, waiter: Call) -> bool: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What hooks are bound to: the revision's callers, and the worker's parts that outlast it."""

    keyring: Keyring
    tokens: Tokens
    key_sets: KeyStore
    limiter: Limiter
    limited_callers: bool
    """Some consumer has a limit of its own."""


class Bound(NamedTuple):
    """A policy's hooks on one route."""

    request: RequestHook | None = None
    answer: AnswerHook | None = None


NOTHING = Bound()
"""The route does not have this policy, so its requests do not pay for it."""

Limits = Mapping[str, RateLimit]
"""By name."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy."""

    name: str
    title: str
    """As forms and pages call it."""
    bind: Callable[[Route, Parts], Bound]
    """Called once per route and revision; what can be decided then is not decided per request."""
    words: Callable[[Route, Limits], str]
    """What it does on this route, as one line for a person; empty when that is nothing."""
