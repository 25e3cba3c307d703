"""Rate limits that all workers share, without a round trip per request.

A worker leases requests from the shared bucket in Redis, as many as core.limits says, and admits from the
lease. What is leased is already counted, so the limit is never exceeded, however many workers lease; what
is not used within ``LEASE_LIFE`` is lost. While Redis is away each worker admits its own share of the rate.

One task asks for all: what comes up while a question is on its way goes with the next, all subjects in one
call of one script on one connection. However many subjects ask at once, none waits for a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
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

MAX_WAITING = 10_000
"""Most requests that wait for Redis's word at a time; one more is decided by its worker alone."""

BATCH = 256
"""Most subjects in one call: Redis runs a script to its end, and nobody else should wait long for that."""

TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for at, key in ipairs(KEYS) do
  local interval, tolerance = tonumber(ARGV[3 * at - 2]), tonumber(ARGV[3 * at - 1])
  local arrival = tonumber(redis.pcall('GET', key))
  if not arrival or not (arrival > now and arrival < now + tolerance + interval) then
    arrival = now
  end
  local room = tolerance - (arrival - now)
  local fits = math.floor(room / interval + 1e-9)
  local count = math.min(tonumber(ARGV[3 * at]), fits)
  local wait = 0
  if count < 1 then
    count, fits, wait = 0, 0, math.ceil(interval - room)
  else
    arrival = arrival + count * interval
    redis.call('SET', key, string.format('%.3f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1000)
  end
  answers[3 * at - 2], answers[3 * at - 1], answers[3 * at] = count, fits - count, wait
end
return answers
"""
"""core.limits.Bucket.take over each key, on Redis's own clock, in microseconds: count, remaining, wait for each.

Whatever else lies under a key (another type, no number, a time out of reach) is an empty bucket; a script that
failed over it would fail for all subjects of its batch."""


class Waiter(Protocol):
    """A request that waits for Redis's word."""

    def resume(self, word: bool) -> None:
        """Whether it may pass."""


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
        "interval",
        "key",
        "limit",
        "remaining",
        "retry_after",
        "size",
        "tolerance",
        "used_at",
    )

    def __init__(self, limiter: Limiter, limit: RateLimit, subject: str) -> None:
        self.limit = limit
        self.key = f"{wire.LIMIT_PREFIX}{limit.name}:{subject}"
        self.size = lease_size(limit)
        interval = limit.period * 1e6 / limit.requests
        self.interval, self.tolerance = repr(interval), repr(interval * (limit.burst or limit.requests))
        """The bucket's measures in microseconds, as the script reads them."""
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
        """Admit one request: yes, no, or None when ``waiter.resume`` will be told."""
        self.used_at = now
        if self.held and now < self._until:
            self.held -= 1
            if self.held < self.size >> 2 and not self.asking:
                self._limiter.ask(self)  # ahead of need, so that a busy subject does not wait
            return True
        self.held = 0
        if now < self._empty_until:
            return False
        limiter = self._limiter
        if not limiter.hears(now):
            return self._alone(now)
        limiter.waiting += 1
        self._waiting.append(waiter)
        if not self.asking:
            limiter.ask(self)
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
        self._limiter.waiting -= len(waiting)
        served = min(self.held, len(waiting))
        self.held -= served
        for waiter in waiting[:served]:
            waiter.resume(True)
        rest = waiting[served:]
        if rest and grant.count:
            # More came while the question was on its way: theirs is the next.
            self._limiter.waiting += len(rest)
            self._waiting = rest + self._waiting
            if not self.asking:
                self._limiter.ask(self)
            return
        for waiter in rest:
            waiter.resume(False)

    def unanswered(self, now: float) -> None:
        """Redis is away: decide alone."""
        self.asking = False
        waiting, self._waiting = self._waiting, []
        self._limiter.waiting -= len(waiting)
        for waiter in waiting:
            waiter.resume(self._alone(now))

    def _alone(self, now: float) -> bool:
        self._limiter.alone()
        bucket = self._local
        if bucket is None:
            bucket = self._local = Bucket(self.limit, self._limiter.share())
        grant = bucket.take(now)
        self.remaining, self.retry_after = grant.remaining, grant.retry_after
        return grant.count > 0

    def fields(self) -> bytes:
        """``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers).

        What is available is said in units of the policy, so never more than its quota: a bucket that holds a larger
        burst is as good as full until less than that is left.
        """
        left = min(self.held + self.remaining, self.limit.requests)
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
        self.waiting = 0
        """Requests that wait for Redis's word."""
        self._metrics = metrics
        self._take = client.register_script(TAKE)
        self._leases: dict[tuple[str, str], Lease] = {}
        self._limits: dict[str, RateLimit] = {}
        self._away_until = 0.0
        self._asking: deque[Lease] = deque()
        """Whose question is not on its way yet; each is in it once at most (``Lease.asking``)."""
        self._wake = asyncio.Event()

    def configure(self, limits: dict[str, RateLimit]) -> None:
        """Adopt a revision's limits; leases of a changed or gone policy are dropped."""
        changed = {name for name, limit in self._limits.items() if limits.get(name) != limit}
        self._leases = {key: lease for key, lease in self._leases.items() if key[0] not in changed}
        self._limits = limits

    def lease(self, policy: str, subject: str) -> Lease | None:
        """The lease of ``subject`` under ``policy``; None for a policy that a later revision took away."""
        key = (policy, subject)
        found = self._leases.get(key)
        if found is None:
            limit = self._limits.get(policy)
            if limit is None:
                return None
            if len(self._leases) >= MAX_LEASES:
                # The oldest entry goes; its count lives on in Redis.
                del self._leases[next(iter(self._leases))]
            found = self._leases[key] = Lease(self, limit, subject)
        return found

    def hears(self, now: float) -> bool:
        """Whether a request may wait for Redis: it did not fail a moment ago, and not too many wait."""
        return now >= self._away_until and self.waiting < MAX_WAITING

    def alone(self) -> None:
        """A request is decided by this worker's own share of the limit."""
        self._metrics.count("mc.gateway.limiter.alone")

    def ask(self, lease: Lease) -> None:
        """Lease more, with the next call."""
        lease.asking = True
        self._asking.append(lease)
        self._wake.set()

    async def run(self) -> None:
        """Ask for everyone, a batch at a time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._asking:
                await self._ask([self._asking.popleft() for _ in range(min(BATCH, len(self._asking)))])

    async def _ask(self, batch: list[Lease]) -> None:
        keys = [lease.key for lease in batch]
        arguments: list[Any] = [value for lease in batch for value in (lease.interval, lease.tolerance, lease.wanted())]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers = await self._take(keys=keys, args=arguments)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            self._failed(batch, error)
            return
        now = monotonic()
        numbers = iter(answers)
        for lease, count, remaining, wait in zip(batch, numbers, numbers, numbers, strict=True):
            lease.answered(Grant(count, remaining, wait / 1e6), now)

    def _failed(self, batch: list[Lease], error: Exception) -> None:
        """Everyone decides alone, those too whose question has not been sent: theirs would fare no better."""
        now = monotonic()
        if now - self._away_until > AWAY_SECONDS:
            log.warning("Redis is away, limits are kept by this worker alone (%s)", type(error).__name__)
        self._away_until = now + AWAY_SECONDS
        left, self._asking = list(self._asking), deque()
        for lease in (*batch, *left):
            lease.unanswered(now)

    def sweep(self, now: float) -> None:
        """Forget subjects that have not called for a minute."""
        stale = [key for key, lease in self._leases.items() if now - lease.used_at > 60 and not lease.asking]
        for key in stale:
            del self._leases[key]
