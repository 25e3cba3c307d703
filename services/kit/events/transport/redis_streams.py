"""Events on Redis Streams: the embedded bus (Redis 7.0 or newer, Valkey).

One stream per partition (``mc:events:<topic>:<n>``), entries with the fields ``e`` (the CloudEvent in structured mode)
and ``t`` (its type), groups as consumer groups. Durability is the server's: with its append-only file on, an entry is
in the file before it counts as taken, so a killed Redis loses nothing; a machine that loses power may lose the last
second. A topic keeps about ``keep`` entries, so each of its streams an eighth; what a group has not acknowledged stays
until its stream alone holds ``keep``, then the oldest go, and are counted as lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from ..cloudevent import encode
from . import redis_scripts as scripts
from .base import (
    ANSWER_S,
    MAX_BYTES,
    PARTITIONS,
    Outgoing,
    Place,
    Rejected,
    Start,
    Stats,
    TransportAway,
    Wanted,
    partition_of,
    too_large,
)
from .redis_pipe import Command, exchange
from .redis_reading import RedisReading
from .redis_wire import (
    AWAY,
    AWAY_WORDS,
    GONE,
    GROUPS,
    TOPICS,
    after,
    ask,
    away,
    check_url,
    places_of,
    stream_of,
    topics_of,
)

log = logging.getLogger(__name__)

KEEP: Final = 100_000
"""About how many entries each topic keeps."""
TRIM_EVERY: Final = 1000
"""Entries published to a stream between two looks at its length."""
POSTPONED_S: Final = 2.5
"""The longest that a server with ``appendfsync everysec`` puts a write off, and a little more."""
TRIM_MOST: Final = 100
"""Entries one trim takes away at most: the server holds them in memory and does nothing else meanwhile."""


class RedisStreams:
    """The Transport on Redis Streams."""

    name = "redis"
    whole = ""

    def __init__(self, url: str, *, keep: int = KEEP) -> None:
        self._scheme = check_url(url)
        """Until a server answered; then no doubt is left that it speaks what we do."""
        # All waiting is bounded by asyncio.timeout here. Nothing is sent twice unasked: a reading whose answer was lost
        # has happened, and its entries must be taken over before newer ones are read.
        self._client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=1.0, socket_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        self._stats = Stats()
        self._keep = keep
        self._published: dict[Place, int] = {}
        self._known: set[str] = set()
        self._readings: set[RedisReading] = set()
        self._trim = self._client.register_script(scripts.TRIM)
        self._count = self._client.register_script(scripts.COUNT)

    def stats(self) -> Stats:
        return replace(self._stats)

    async def close(self) -> None:
        for reading in list(self._readings):
            await reading.close()
        await self._client.aclose()

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        if not batch:
            return []
        outcomes: list[Rejected | None] = [None] * len(batch)
        sent: list[int] = []
        counts: dict[Place, int] = {}
        new = {out.goes_to for out in batch} - self._known
        commands: list[Command] = [("SADD", TOPICS, *new)] if new else []
        for at, out in enumerate(batch):
            body = encode(out.event)
            if len(body) > MAX_BYTES:
                outcomes[at] = too_large(len(body))
                continue
            place = (out.goes_to, partition_of(out))
            commands.append(("XADD", stream_of(place), "*", "e", body, "t", out.event.type))
            counts[place] = counts.get(place, 0) + 1
            sent.append(at)
        try:
            async with asyncio.timeout(ANSWER_S):
                answers = (await exchange(self._client, commands))[bool(new) :]
                self._scheme = ""
                await self._written()
                self._known |= new
                # First, for a full server takes nothing again until something has gone.
                await self._bound(counts)
        except GONE as error:
            # The set of topics may be gone with the server's memory: name them again next time.
            self._known.clear()
            raise away(error, self._scheme) from None
        for at, answer in zip(sent, answers, strict=True):
            outcomes[at] = _outcome(answer)
        return outcomes

    async def _written(self) -> None:
        """Wait until the server's log has what it took: while an earlier part of it is being synced to a slow disk, it
        answers first and writes up to two seconds later, and a kill in between would lose it."""
        until, wanted = time.monotonic() + POSTPONED_S, -1
        while time.monotonic() < until:
            try:
                told = await self._client.info("persistence")
            except ResponseError:
                return  # Who may not ask can't wait.
            size, buffered = int(told.get("aof_current_size", 0)), int(told.get("aof_buffer_length", 0))
            if wanted < 0:
                wanted = size + buffered
            if not buffered or size >= wanted:
                return
            await asyncio.sleep(0.005)

    async def _bound(self, counts: Mapping[Place, int]) -> None:
        """Look at the length of the streams that have grown, by so many."""
        every = min(TRIM_EVERY, max(self._keep // PARTITIONS // 10, 1))
        for place, more in counts.items():
            self._published[place] = self._published.get(place, every) + more
        for place, count in self._published.items():
            if count > every:
                self._published[place] = 0
                try:
                    for _ in range(count // TRIM_MOST + 2):
                        if not await self._cut(stream_of(place)):
                            break
                except ResponseError as error:
                    log.warning("%s could not be trimmed: %s", stream_of(place), error)

    async def _cut(self, stream: str) -> bool:
        """Trim the stream by one step and count what some group had still to deal with; whether there may be more."""
        went, *groups = await self._trim(keys=[stream], args=[self._keep // PARTITIONS, self._keep, TRIM_MOST])
        self._stats.trimmed += int(went)
        for group, lost in zip(groups[::2], groups[1::2], strict=True):
            self._stats.lost += int(lost)
            log.warning("Group %s lost %d events of %s: it reads too slowly.", group.decode(), lost, stream)
        return int(went) == TRIM_MOST

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        patterns: Sequence[str],
        group: str,
        member: str,
        *,
        topics: Collection[str] = (),
        start: Start = "earliest",
        lease_s: float = 30.0,
    ) -> RedisReading:
        wanted = Wanted(patterns, topics)
        reading = RedisReading(self._client, self._stats, wanted, group, member, after(start), lease_s)
        self._readings = {one for one in self._readings if not one.closed} | {reading}
        await reading.begin()
        return reading

    def carriers(self, event_type: str) -> list[str]:
        return [self.name]

    async def groups(self) -> set[str]:
        names: Any = await ask(self._client.hkeys(GROUPS))
        return {name.decode() for name in names}

    async def lag(self, group: str) -> dict[str, int]:
        return await ask(self._lag(group))

    async def _lag(self, group: str) -> dict[str, int]:
        places = [place for topic in await topics_of(self._client) for place in places_of(topic)]
        found: dict[str, int] = {}
        async with self._client.pipeline(transaction=False) as pipe:
            for place in places:
                pipe.xinfo_groups(stream_of(place))
            answers = await pipe.execute(raise_on_error=False)
        for place, groups in zip(places, answers, strict=True):
            row = next((row for row in _rows(groups) if row["name"] == group.encode()), None)
            if row is not None:
                unread = row["lag"] if row["lag"] is not None else await self._unread(place, row)
                found[f"{place[0]}/{place[1]}"] = int(row["pending"]) + unread
        return found

    async def _unread(self, place: Place, row: dict[str, Any]) -> int:
        """For a group that began in the middle, where Redis keeps no count."""
        total, after = 0, row["last-delivered-id"]
        while True:
            count, last = await self._count(keys=[stream_of(place)], args=[after])
            total += count
            if count < 1000:
                return int(total)
            after = last


def _rows(groups: Any) -> list[dict[str, Any]]:
    """XINFO's answer, none for a stream that is not there."""
    if isinstance(groups, AWAY):
        raise groups
    return [] if isinstance(groups, Exception) else groups


def _outcome(answer: object) -> Rejected | None:
    if not isinstance(answer, Exception):
        return None
    if isinstance(answer, AWAY) or str(answer).startswith(AWAY_WORDS):
        raise TransportAway(f"Redis takes nothing: {answer}")
    return Rejected(str(answer))
