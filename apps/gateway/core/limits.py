"""GCRA, the generic cell rate algorithm: a token bucket kept as one number, and how much of it a worker leases.

Pure: the shared bucket runs the same arithmetic in Redis (apps.gateway.plane.limiter), and one suite
(tests/contract/test_limits.py) holds both to it. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from apps.gateway.core.chain import Peer
from apps.gateway.core.config import RateLimit, Route
from apps.gateway.core.headers import RequestHead
from services.kit.problem import Problem, Refused

LEASE_SECONDS = 0.05
"""A worker leases this much of the rate at a time: small against a second, large against a round trip."""


class Grant:
    """What a bucket gave: ``count`` requests now; when none, ``retry_after`` seconds until one would pass."""

    __slots__ = ("count", "remaining", "retry_after")

    def __init__(self, count: int, remaining: int, retry_after: float) -> None:
        self.count = count
        self.remaining = remaining
        self.retry_after = retry_after


class Bucket:
    """One consumer's use of one policy, in this process."""

    __slots__ = ("arrival", "interval", "tolerance")

    def __init__(self, limit: RateLimit, share: float = 1.0) -> None:
        """``share`` of the rate and of the burst: a worker alone may use one worker's part."""
        burst = limit.burst or limit.requests
        self.interval = limit.period / (limit.requests * share)
        self.tolerance = self.interval * max(1.0, burst * share)
        self.arrival = 0.0

    def take(self, now: float, wanted: int = 1) -> Grant:
        """Grant as many of ``wanted`` as fit, all at once."""
        arrival = max(self.arrival, now)
        room = self.tolerance - (arrival - now)
        # The epsilon forgives binary fractions: 0.3 / 0.1 holds three intervals, not 2.9999999999999996.
        fits = int(room / self.interval + 1e-9)
        count = min(wanted, fits)
        if count > 0:
            self.arrival = arrival + count * self.interval
            return Grant(count, fits - count, 0.0)
        return Grant(0, 0, self.interval - room)


def lease_size(limit: RateLimit) -> int:
    """Requests to lease at a time; 1 for a small limit, which makes it exact to the request."""
    burst = limit.burst or limit.requests
    return max(1, min(int(limit.requests / limit.period * LEASE_SECONDS), burst // 4))


def subject(peer: Peer, head: RequestHead) -> str:
    """Whom a public route's limit counts: the peer, or whom a trusted peer speaks for."""
    if peer.trusted and head.forwarded is not None:
        return head.forwarded.rpartition(b",")[2].strip()[:64].decode("ascii", "replace")
    return peer.address


def refused(limit: RateLimit, retry_after: float) -> Refused:
    """429: nothing is left, and there will be in ``retry_after`` seconds."""
    wait = max(1, int(retry_after + 0.999))
    return Refused(Problem(429, "rate_limited", f"{limit.name}: try again in {wait} s.", wait))


def in_words(route: Route, limits: Mapping[str, RateLimit]) -> str:
    """The route's limit for a person; empty when it has none."""
    limit = limits.get(route.rate_limit or "")
    if limit is None:
        return ""
    burst = f", {limit.burst:,} at once" if limit.burst is not None else ""
    of = "consumer" if route.auth else "client address"
    return f"{limit.name}: {limit.requests:,} in {limit.period:g} s{burst}, for each {of}"
