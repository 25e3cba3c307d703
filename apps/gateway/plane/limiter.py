"""Rate limits that all workers share, without a round trip per request.

A worker leases requests from the shared bucket in Redis, as many as core.limits says, and admits from the
lease. What is leased is already counted, so the limit is never exceeded, however many workers lease; what
is not used within ``LEASE_LIFE`` is lost. While Redis is away each worker admits its own share of the rate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import redis.asyncio
import redis.exceptions

from apps.gateway.core.config import RateLimit
from apps.gateway.core.limits import Bucket, Grant, lease_size
from apps.gateway.core.metrics import Metrics
from apps.lib import wire
from apps.lib.clock import monotonic

log = logging.getLogger(__name__)

LEASE_LIFE = 1.0
"""Seconds a lease is good for: an old one, kept, would add to a later burst."""

ANSWER_SECONDS = 0.25
"""How long a request may wait for Redis before its worker decides alone."""

AWAY_SECONDS = 1.0
"""After a failed call Redis is asked again this much later."""

MAX_LEASES = 50_000
"""Most (policy, subject) pairs a worker remembers."""

TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local room = tolerance - (arrival - now)
local fits = math.floor(room / interval + 1e-9)
local count = math.min(wanted, fits)
if count < 1 then
  return {0, 0, tostring((interval - room) / 1000000)}
end
arrival = arrival + count * interval
redis.call('SET', KEYS[1], string.format('%.3f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1000)
return {count, fits - count, '0'}
"""
"""core.limits.Bucket.take over a key, on Redis's own clock, in microseconds."""


class Waiter(Protocol):
    """A request that waits for Redis's word."""

    def limited(self, lease: Lease, allowed: bool) -> None: ...


class Lease:
    """One subject's requests under one policy, as this worker holds them."""

    __slots__ = (
        "_empty_until",
        "_limiter",
        "_local",
        "_policy",
        "_until",
        "_waiting",
        "asking",
        "held",
        "key",
        "limit",
        "remaining",
        "retry_after",
        "size",
        "used_at",
    )

    def __init__(self, limiter: Limiter, limit: RateLimit, subject: str) -> None:
        self.limit = limit
        self.key = f"{wire.LIMIT_PREFIX}{limit.name}:{subject}"
        self.size = lease_size(limit)
        self.held = 0
        self.remaining = 0
        """Requests left in the shared bucket when it was last asked."""
        self.retry_after = 0.0
        self.asking = False
        self.used_at = 0.0
        self._limiter = limiter
        self._until = 0.0
        self._empty_until = 0.0
        """The shared bucket can't hold a request before this, so nobody needs to ask."""
        self._local: Bucket | None = None
        self._waiting: list[Waiter] = []
        self._policy = (
            f'RateLimit-Policy: "{limit.name}";q={limit.requests};w={max(1, round(limit.period))}\r\n'.encode()
        )

    def take(self, now: float, waiter: Waiter) -> bool | None:
        """Admit one request: yes, no, or None when ``waiter.limited`` will be told."""
        self.used_at = now
        if self.held and now < self._until:
            self.held -= 1
            if self.held < self.size >> 2 and not self.asking:
                self._limiter.ask(self)  # ahead of need, so that a busy subject does not wait
            return True
        self.held = 0
        if now < self._empty_until:
            return False
        if self._limiter.away(now):
            return self._alone(now)
        self._waiting.append(waiter)
        if not self.asking:
            self._limiter.ask(self)
        return None

    def answered(self, grant: Grant, now: float) -> None:
        """The shared bucket's answer."""
        self.asking = False
        self._local = None
        self.held += grant.count
        self.remaining = grant.remaining
        self.retry_after = grant.retry_after
        self._until = now + LEASE_LIFE
        self._empty_until = now + grant.retry_after if grant.count == 0 else 0.0
        waiting, self._waiting = self._waiting, []
        while waiting and self.held:
            self.held -= 1
            waiting.pop(0).limited(self, True)
        if waiting and grant.count == 0:
            for waiter in waiting:
                waiter.limited(self, False)
        elif waiting:
            self._waiting = waiting + self._waiting
            self._limiter.ask(self)

    def unanswered(self, now: float) -> None:
        """Redis is away: decide alone."""
        self.asking = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.limited(self, self._alone(now))

    def _alone(self, now: float) -> bool:
        bucket = self._local
        if bucket is None:
            bucket = self._local = Bucket(self.limit, self._limiter.share())
        grant = bucket.take(now)
        self.remaining, self.retry_after = grant.remaining, grant.retry_after
        return grant.count > 0

    def fields(self) -> bytes:
        """``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers)."""
        left = self.held + self.remaining
        return b'%bRateLimit: "%b";r=%d;t=%d\r\n' % (
            self._policy,
            self.limit.name.encode(),
            left,
            max(1, int(self.retry_after + 0.999)),
        )

    def wanted(self) -> int:
        """How many to ask for."""
        return max(self.size, len(self._waiting)) if self.size > 1 else max(1, len(self._waiting))


class Limiter:
    """All leases of one worker."""

    def __init__(self, client: redis.asyncio.Redis, metrics: Metrics, share: Callable[[], float]) -> None:
        """``share`` is this worker's part of every limit while Redis is away: 1 / workers alive."""
        self.share = share
        self._metrics = metrics
        self._take = client.register_script(TAKE)
        self._leases: dict[tuple[str, str], Lease] = {}
        self._limits: dict[str, RateLimit] = {}
        self._away_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def configure(self, limits: dict[str, RateLimit]) -> None:
        """Adopt a revision's limits; leases of a changed or gone policy are dropped."""
        changed = {name for name, limit in self._limits.items() if limits.get(name) != limit}
        self._leases = {key: lease for key, lease in self._leases.items() if key[0] not in changed}
        self._limits = limits

    def lease(self, policy: str, subject: str) -> Lease:
        """The lease of ``subject`` under ``policy``."""
        key = (policy, subject)
        found = self._leases.get(key)
        if found is None:
            if len(self._leases) >= MAX_LEASES:
                # The oldest entry goes; its count lives on in Redis.
                del self._leases[next(iter(self._leases))]
            found = self._leases[key] = Lease(self, self._limits[policy], subject)
        return found

    def away(self, now: float) -> bool:
        """Whether Redis failed a moment ago."""
        return now < self._away_until

    def ask(self, lease: Lease) -> None:
        """Lease more."""
        lease.asking = True
        task = asyncio.get_running_loop().create_task(self._ask(lease))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, lease: Lease) -> None:
        limit = lease.limit
        interval = limit.period * 1e6 / limit.requests
        tolerance = interval * (limit.burst or limit.requests)
        arguments: list[Any] = [repr(interval), repr(tolerance), lease.wanted()]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                count, remaining, retry_after = await self._take(keys=[lease.key], args=arguments)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            now = monotonic()
            if not self.away(now):
                log.warning("Redis is away, limits are kept by this worker alone (%s)", type(error).__name__)
            self._away_until = now + AWAY_SECONDS
            self._metrics.count("mc.gateway.limiter.alone")
            lease.unanswered(now)
            return
        lease.answered(Grant(int(count), int(remaining), float(retry_after)), monotonic())

    def sweep(self, now: float) -> None:
        """Forget subjects that have not called for a minute."""
        stale = [key for key, lease in self._leases.items() if now - lease.used_at > 60 and not lease.asking]
        for key in stale:
            del self._leases[key]

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ANSWER_SECONDS)
