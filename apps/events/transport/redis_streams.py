"""Events on Redis Streams: the embedded bus.

One stream per domain (``mc:events:<domain>``), entries with the fields ``e`` (the CloudEvent as JSON)
and ``t`` (its type), groups as consumer groups. Durability is the server's: with its append-only
file on, an entry is in the file before ``XADD`` answers, so a killed Redis loses nothing; a machine
that loses power may lose the last second. A stream keeps about ``keep`` entries; the oldest go first,
and what a group had not read by then is counted as lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import TimeoutError as RedisSilent

from apps.events.transport.base import Delivery, Rejected, Start, Stats, TransportAway
from apps.lib import clock, kv
from apps.lib.wire import EVENT_DOMAINS, EVENT_STREAM_PREFIX
from services.kit.events import patterns as types
from services.kit.events.cloudevent import CloudEvent, EventError, decode, encode

log = logging.getLogger(__name__)

KEEP = 100_000
"""About how many entries each stream keeps."""
TRIM_EVERY = 1000
"""Entries published between two looks at a stream's length."""
BATCH = 100
"""Entries read at once, which is also all that a subscription buffers."""
BLOCK_MS = 2000
CLAIM_IDLE_S = 30.0
"""A delivery whose consumer was silent this long is given to another."""
LOOK_FOR_STREAMS_S = 1.0
ANSWER_S = 5.0
AWAY_FIRST_S, AWAY_MOST_S = 0.2, 5.0

TRIM_MOST = 5000
"""Entries one trim takes away at most: the server does nothing else meanwhile."""

# Errors of the server as a whole, not of one command: full, read-only, failing over.
AWAY = (RedisGone, RedisSilent, OutOfMemoryError, ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError)
AWAY_WORDS = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")

# Cuts a stream to its newest ARGV[1] entries, at most ARGV[2] at a time, and answers how many went,
# then per group that lost some of them its name and their number: those it had not read, and those
# it had read and not acknowledged. One script, so that nothing is read or acknowledged in between.
TRIM = """
local excess = math.min(redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1]), tonumber(ARGV[2]))
if excess <= 0 then return {0} end
local function parts(id)
  local time, count = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(time), tonumber(count)
end
local old = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess)
local answer = {excess}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #info, 2 do group[info[at]] = info[at + 1] end
  local time, count = parts(group['last-delivered-id'])
  local lost = 0
  for at = #old, 1, -1 do
    local its_time, its_count = parts(old[at][1])
    if its_time < time or (its_time == time and its_count <= count) then break end
    lost = lost + 1
  end
  if group['pending'] > 0 then
    lost = lost + #redis.call('XPENDING', KEYS[1], group['name'], old[1][1], old[#old][1], excess)
  end
  if lost > 0 then
    answer[#answer + 1] = group['name']
    answer[#answer + 1] = lost
  end
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', redis.call('XLEN', KEYS[1]) - excess)
return answer
"""


class RedisStreams:
    """The Transport on Redis Streams (Redis 6.2 or newer)."""

    def __init__(self, url: str, *, keep: int = KEEP, claim_idle_s: float = CLAIM_IDLE_S) -> None:
        self._redis: redis.asyncio.Redis = kv.async_client(url, decode=False, socket_timeout=None)
        self._keep = keep
        self._claim_idle_ms = int(claim_idle_s * 1000)
        self._since_trim: dict[str, int] = {}
        self._known_domains: set[str] = set()
        self._trimmed = self._lost = self._malformed = 0
        self._trimming = self._redis.register_script(TRIM)
        self._closed = asyncio.Event()

    def stats(self) -> Stats:
        return Stats(self._trimmed, self._lost, self._malformed)

    async def close(self) -> None:
        self._closed.set()
        await self._redis.aclose()

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[CloudEvent]) -> list[Rejected | None]:
        if not batch:
            return []
        new = {event.domain for event in batch} - self._known_domains
        try:
            async with asyncio.timeout(ANSWER_S):
                pipe = self._redis.pipeline(transaction=False)
                if new:
                    pipe.sadd(EVENT_DOMAINS, *new)
                for event in batch:
                    pipe.xadd(EVENT_STREAM_PREFIX + event.domain, {b"e": encode(event), b"t": event.type})
                answers = (await pipe.execute(raise_on_error=False))[bool(new) :]
                self._known_domains |= new
                outcomes = [_outcome(answer) for answer in answers]
                await self._bound(batch)
        except (RedisGone, RedisSilent, TimeoutError, OSError) as error:
            # The set of domains may be gone with the server's memory: name them again next time.
            self._known_domains.clear()
            raise TransportAway(f"Redis does not answer: {error or type(error).__name__}") from None
        return outcomes

    async def _bound(self, batch: Sequence[CloudEvent]) -> None:
        for event in batch:
            self._since_trim[event.domain] = self._since_trim.get(event.domain, self._every) + 1
        for domain, count in self._since_trim.items():
            if count >= self._every:
                self._since_trim[domain] = 0
                try:
                    await self._trim(EVENT_STREAM_PREFIX + domain)
                except ResponseError as error:
                    log.warning("Stream %s could not be trimmed: %s", domain, error)

    @property
    def _every(self) -> int:
        return min(TRIM_EVERY, max(self._keep // 10, 1))

    async def _trim(self, stream: str) -> None:
        """Cut the stream to its bound, and count what some group had still to deal with."""
        went, *groups = await self._trimming(keys=[stream], args=[self._keep, TRIM_MOST])
        self._trimmed += int(went)
        for group, lost in zip(groups[::2], groups[1::2], strict=True):
            self._lost += int(lost)
            log.warning("Group %s lost %d events of %s: it reads too slowly.", group.decode(), lost, stream)

    # -- subscribing -----------------------------------------------------------------------------

    def subscribe(
        self, patterns: Sequence[str], group: str, consumer: str, *, start: Start = "earliest"
    ) -> AsyncGenerator[Delivery, None]:
        for pattern in patterns:
            types.segments(pattern)
        return self._deliveries(list(patterns), group, consumer, start)

    async def _deliveries(
        self, patterns: list[str], group: str, consumer: str, start: Start
    ) -> AsyncGenerator[Delivery, None]:
        reader = _Reader(self, patterns, group, consumer, start)
        wait = AWAY_FIRST_S
        away = False
        while not self._closed.is_set():
            try:
                async with asyncio.timeout(BLOCK_MS / 1000 + ANSWER_S):
                    found = await reader.next_batch()
            except (RedisError, OSError, TimeoutError) as error:
                if self._closed.is_set():
                    return
                if not away:
                    log.warning("Group %s waits for Redis: %s", group, error)
                away = True
                reader.forget()
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                wait = min(wait * 2, AWAY_MOST_S)
                continue
            if away:
                log.warning("Group %s reads again.", group)
            away, wait = False, AWAY_FIRST_S
            while found:
                yield found.popleft()

    @property
    def client(self) -> redis.asyncio.Redis:
        """The connection pool, for this module's own parts."""
        return self._redis

    @property
    def claim_idle_ms(self) -> int:
        """How long a delivery may be silent."""
        return self._claim_idle_ms

    def count_malformed(self) -> None:
        """One entry was no event."""
        self._malformed += 1


class _Reader:
    """One consumer's reading of its streams."""

    def __init__(self, bus: RedisStreams, patterns: list[str], group: str, consumer: str, start: Start) -> None:
        self._bus, self._patterns, self._group, self._consumer = bus, patterns, group, consumer
        self._from = "0" if start == "earliest" else "$"
        self._streams: dict[str, str] = {}
        self._look_at = self._claim_at = 0.0

    def forget(self) -> None:
        """The server may have lost the groups: make sure of them again."""
        self._streams.clear()
        self._look_at = 0.0

    async def next_batch(self) -> deque[Delivery]:
        now = clock.monotonic()
        if now >= self._look_at:
            await self._find_streams()
            self._look_at = now + LOOK_FOR_STREAMS_S
        if now >= self._claim_at:
            # Often enough that a lapsed delivery waits no more than half as long again.
            self._claim_at = now + min(max(self._bus.claim_idle_ms / 2000, 0.05), 5.0)
            claimed = await self._claim()
            if claimed:
                self._claim_at = now
                return claimed
        if not self._streams:
            await asyncio.sleep(LOOK_FOR_STREAMS_S / 4)
            return deque()
        block = BLOCK_MS if types.domains(self._patterns) else int(LOOK_FOR_STREAMS_S * 1000)
        block = max(min(block, int((self._claim_at - now) * 1000)), 10)
        answer = await self._bus.client.xreadgroup(
            self._group, self._consumer, dict.fromkeys(self._streams, ">"), count=BATCH, block=block
        )
        found: deque[Delivery] = deque()
        for stream, entries in _pairs(answer):
            found.extend(await self._deliveries(stream.decode(), entries, attempts={}))
        return found

    async def _find_streams(self) -> None:
        wanted = types.domains(self._patterns)
        if wanted is None:
            members: set[Any] = await self._bus.client.smembers(EVENT_DOMAINS)
            wanted = {domain.decode() for domain in members}
        for domain in sorted(wanted):
            stream = EVENT_STREAM_PREFIX + domain
            if stream in self._streams:
                continue
            try:
                await self._bus.client.xgroup_create(stream, self._group, id=self._from, mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self._streams[stream] = ">"

    async def _claim(self) -> deque[Delivery]:
        """Take over what another consumer, or this one before a restart, left unacknowledged."""
        found: deque[Delivery] = deque()
        for stream in self._streams:
            answer = await self._bus.client.xautoclaim(
                stream, self._group, self._consumer, self._bus.claim_idle_ms, count=BATCH
            )
            entries = [(entry, fields) for entry, fields in answer[1] if fields]
            if len(entries) < len(answer[1]):
                await self._let_go(stream)
            if not entries:
                continue
            rows = await self._bus.client.xpending_range(
                stream, self._group, min=entries[0][0], max=entries[-1][0], count=BATCH, consumername=self._consumer
            )
            attempts: dict[Any, int] = {row["message_id"]: int(row["times_delivered"]) for row in rows}
            found.extend(await self._deliveries(stream, entries, attempts))
        return found

    async def _let_go(self, stream: str) -> None:
        """Acknowledge what was held when the stream was cut: Redis before 7 offers it for ever, without content."""
        first: Any = await self._bus.client.xrange(stream, count=1)
        edge = "(" + first[0][0].decode() if first else "+"
        rows = await self._bus.client.xpending_range(stream, self._group, min="-", max=edge, count=BATCH)
        if rows:
            await self._bus.client.xack(stream, self._group, *[row["message_id"] for row in rows])

    async def _deliveries(
        self, stream: str, entries: list[tuple[bytes, dict[bytes, bytes]]], attempts: dict[bytes, int]
    ) -> list[Delivery]:
        found: list[Delivery] = []
        skipped: list[bytes] = []
        for entry, fields in entries:
            event = self._read(stream, entry, fields)
            if event is None:
                skipped.append(entry)
            else:
                found.append(
                    _Delivery(self._bus, stream, self._group, self._consumer, entry, event, attempts.get(entry, 1))
                )
        if skipped:
            await self._bus.client.xack(stream, self._group, *skipped)
        return found

    def _read(self, stream: str, entry: bytes, fields: dict[bytes, bytes]) -> CloudEvent | None:
        """The event, or None for one that this subscription has no use for."""
        kind = fields.get(b"t", b"").decode(errors="replace")
        if kind and not any(types.matches(pattern, kind) for pattern in self._patterns):
            return None
        try:
            event = decode(fields.get(b"e", b""))
        except EventError as error:
            self._bus.count_malformed()
            log.warning("Entry %s of %s is no event: %s", entry.decode(), stream, error)
            return None
        if not any(types.matches(pattern, event.type) for pattern in self._patterns):
            return None
        return event


class _Delivery:
    def __init__(
        self, bus: RedisStreams, stream: str, group: str, consumer: str, entry: bytes, event: CloudEvent, attempt: int
    ) -> None:
        self._bus, self._stream, self._group, self._consumer, self._entry = bus, stream, group, consumer, entry
        self.event = event
        self.attempt = attempt

    async def ack(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._bus.client.xack(self._stream, self._group, self._entry)
        except (RedisGone, RedisSilent, TimeoutError, OSError) as error:
            raise TransportAway(f"Redis does not answer: {error or type(error).__name__}") from None

    async def nack(self) -> None:
        # As if it had been silent for the claim time already: the next look of any consumer takes it.
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._bus.client.xclaim(
                    self._stream,
                    self._group,
                    self._consumer,
                    min_idle_time=0,
                    message_ids=[self._entry],
                    idle=self._bus.claim_idle_ms,
                    justid=True,
                )
        except (RedisGone, RedisSilent, TimeoutError, OSError) as error:
            raise TransportAway(f"Redis does not answer: {error or type(error).__name__}") from None


def _outcome(answer: object) -> Rejected | None:
    if not isinstance(answer, Exception):
        return None
    if isinstance(answer, AWAY) or str(answer).startswith(AWAY_WORDS):
        raise TransportAway(f"Redis takes nothing: {answer}")
    return Rejected(str(answer))


def _pairs(answer: Any) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """XREADGROUP's answer in either protocol version: a list of pairs, or a mapping."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return [(stream, [entry for part in parts for entry in part]) for stream, parts in answer.items()]
    return [(stream, entries) for stream, entries in answer]
