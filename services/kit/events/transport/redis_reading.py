"""One member's reading of Redis Streams: leases on partitions, what they hold, and what becomes of it.

A member holds a partition by a lease, a key with expiry, and its fair share of each topic's: who has more gives back
what it has nothing of in hand. Whoever takes a partition over first takes what is pending in it, in order, and only
then reads on. So all of a group's members are one consumer to Redis, ``m``: the lease says who may act for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from itertools import chain
from typing import Any, Final

import msgspec
import redis.asyncio
from redis.exceptions import TimeoutError as RedisSilent

from . import redis_scripts as scripts
from .base import ANSWER_S, PARTITIONS, Delivery, Place, Start, Stats, TransportAway, Wanted, read
from .reading import Reading
from .redis_wire import (
    DEAD_PREFIX,
    GROUPS,
    LEASE_PREFIX,
    MEMBERS_PREFIX,
    after,
    ask,
    away,
    places_of,
    stream_of,
    topics_of,
)

log = logging.getLogger(__name__)

DEAD_KEEP: Final = 10_000
"""Entries that a group's dead stream keeps; what leaves it counts as lost."""
LOOK_S: Final = 1.0
"""The longest between two looks at the group's members and at new topics."""
READS: Final = 500
"""Entries of one reading: some are handled while others are read."""
ACKS: Final = 500
"""Entries of a partition that one command acknowledges."""
BLOCK_S: Final = 2.0
"""How long Redis is asked to wait for an entry."""


class RedisReading(Reading):
    """One member's reading of Redis Streams."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        stats: Stats,
        wanted: Wanted,
        group: str,
        member: str,
        after_id: str,
        lease_s: float,
    ) -> None:
        super().__init__(stats, wanted, group, lease_s)
        self._client, self._after = client, after_id
        self._past = f"{member}|"
        """With what the names of earlier processes of this member begin; asked once, at the first meeting."""
        self._me = self._past + secrets.token_hex(8)
        self._lease_ms = int(lease_s * 1000)
        self._every_s = min(lease_s / 3, LOOK_S)
        self._cursors: dict[Place, str] = {}
        self._tails: dict[Place, str] = {}
        self._odd: dict[Place, str] = {}
        """What was said of streams that can't be read; said once."""
        self._joined: set[str] = set()
        self._ever_joined = False
        self._look_at = 0.0
        self._coming: asyncio.Future[Any] | None = None
        """Waits for an entry after those that ``_awaited`` names, by stream."""
        self._awaited: dict[str, str] = {}
        self._silent_at = 0.0
        script = client.register_script
        self._join, self._meet, self._acquire = script(scripts.JOIN), script(scripts.MEET), script(scripts.ACQUIRE)
        self._release, self._read, self._ack = script(scripts.RELEASE), script(scripts.READ), script(scripts.ACK)
        self._dead, self._seek = script(scripts.DEAD_LETTER), script(scripts.SEEK)

    async def _prepare(self) -> None:
        await ask(self._join_topics())

    async def _leave(self) -> None:
        await self._await_nothing()
        try:
            await ask(self._let_go())
        except TransportAway as error:
            log.warning("Group %s: leases are not given back but run out: %s", self.group, error)

    async def _let_go(self) -> None:
        await self._release(keys=[self._lease_of(place) for place in self._hands.places], args=[self._me])
        await self._client.zrem(MEMBERS_PREFIX + self.group, self._me)

    async def _start_over(self) -> None:
        self._joined.clear()
        self._look_at = 0.0
        await self._await_nothing()

    # -- reading ---------------------------------------------------------------------------------

    async def _round(self, most: int, deadline: float) -> list[Delivery]:
        if time.monotonic() >= self._look_at:
            await ask(self._look())
            self._look_at = time.monotonic() + self._every_s
        if found := self._hands.take(most, time.monotonic()):
            return found
        room = self._hands.room(most)
        places = [place for place in self._hands.places if not self._hands.waiting(place)]
        unread = room > 0 and places and not self._awaits(places)
        if unread and await ask(self._read_some(places, min(room, READS))):
            return self._hands.take(most, time.monotonic())
        due = self._hands.due() if room > 0 else None
        until = min(deadline, self._look_at, due or deadline)
        tails = {stream_of(place): self._tails[place] for place in places if self._tails.get(place)}
        if room > 0 and not all(place in self._tails for place in places):
            return []  # Some partition may have more at once.
        if room > 0 and tails:
            await self._wait_for_more(tails, until)
        else:
            await self._sleep_until(until)
        return []

    async def _read_some(self, places: list[Place], room: int) -> bool:
        """Read what fits; whether anything was read, wanted or not."""
        keys = [key for place in places for key in (stream_of(place), self._lease_of(place))]
        cursors = [self._cursors[place] for place in places]
        for place in places:
            # Until the answer is here: what Redis gives out and we never see has to be taken over.
            self._cursors[place] = "0-0"
        rows = await self._read(keys=keys, args=[self._me, self._lease_ms, self.group, room, *cursors])
        skipped: list[tuple[Place, bytes]] = []
        anything = False
        for place, (state, cursor, entries, counts, tail) in zip(places, rows, strict=True):
            if state == b"lost":
                self._lose(place)
                continue
            if state != b"held":
                self._odd_stream(place, state.decode(errors="replace"))
                continue
            self._odd.pop(place, None)
            self._cursors[place] = cursor.decode()
            if tail:
                self._tails[place] = tail.decode()
            else:
                self._tails.pop(place, None)
            anything = anything or bool(entries) or cursor != b">"
            for number, (entry, fields) in enumerate(entries):
                position = entry.decode()
                if self._hands.knows(place, position):
                    continue
                attempt = int(counts[number]) if number < len(counts) else 1
                delivery = self._delivery(place, position, attempt, fields)
                if delivery is None:
                    skipped.append((place, entry))
                else:
                    self._stock(delivery)
        if skipped:
            await self._skip(skipped)
        return anything

    async def _skip(self, entries: list[tuple[Place, bytes]]) -> None:
        """Acknowledge what nobody here wants to see."""
        cursors = {place: self._cursors[place] for place, _ in entries}
        # Until that is done they are pending: to be taken over again.
        self._cursors |= dict.fromkeys(cursors, "0-0")
        async with self._client.pipeline(transaction=False) as pipe:
            for place, entry in entries:
                pipe.xack(stream_of(place), self.group, entry)
            await pipe.execute()
        self._cursors |= cursors

    def _delivery(self, place: Place, position: str, attempt: int, flat: list[bytes]) -> Delivery | None:
        """The entry as a delivery; None when this subscription has no use for it."""
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        kind = fields.get(b"t", b"").decode(errors="replace")
        if kind and kind not in self._wanted:
            return None
        raw = fields.get(b"e")
        if raw is None:
            whole = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
            raw, event, fault = msgspec.json.encode(whole), None, "The entry has no field 'e'."
        else:
            event, fault = read(raw)
        if event is not None and event.type not in self._wanted:
            return None
        return Delivery(*place, position, attempt, raw, event, fault)

    def _odd_stream(self, place: Place, why: str) -> None:
        """Reading it is an error: the group is gone with what Redis forgot, or the key holds something else."""
        if why.startswith("NOGROUP"):
            self._joined.discard(place[0])
            self._look_at = 0.0
            self._stats.breaks += 1
        elif self._odd.get(place) != why:
            self._odd[place] = why
            log.warning("%s can't be read: %s", stream_of(place), why)
        # Nothing to wait for; it is tried again with the next reading.
        self._tails[place] = ""

    def _awaits(self, places: list[Place]) -> bool:
        """Whether there is nothing in these that was not read: Redis would have said so."""
        if self._coming is None or self._coming.done():
            return False
        return all(self._cursors[place] == ">" and stream_of(place) in self._awaited for place in places)

    async def _wait_for_more(self, tails: dict[str, str], until: float) -> None:
        """Until an entry comes, the time is up, or something was given back or settled.

        One question to Redis outlives many of these waits: to end it would be to end its connection.
        """
        if self._coming is not None and not self._coming.done() and not tails.keys() <= self._awaited.keys():
            await self._await_nothing()
        if self._coming is None:
            self._awaited = tails
            self._silent_at = time.monotonic() + BLOCK_S + ANSWER_S
            asked = self._client.xread(tails, count=1, block=int(BLOCK_S * 1000))  # type: ignore[arg-type]
            self._coming = asyncio.ensure_future(asked)
            self._coming.add_done_callback(lambda _: self._changed.set())
        coming = self._coming
        if not coming.done():
            await self._sleep_until(min(until, self._silent_at))
        if coming.done():
            self._coming = None
            if not coming.cancelled():
                await ask(coming)
        elif time.monotonic() >= self._silent_at:
            raise away(RedisSilent("it says nothing"))

    async def _await_nothing(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    # -- partitions ------------------------------------------------------------------------------

    def _lease_of(self, place: Place) -> str:
        return f"{LEASE_PREFIX}{self.group}:{place[0]}:{place[1]}"

    async def _join_topics(self) -> None:
        wanted = self._wanted.topics
        topics = (wanted if wanted is not None else await topics_of(self._client)) - self._joined
        if not topics:
            return
        streams = [stream_of(place) for topic in topics for place in places_of(topic)]
        # Whoever joined once and finds its group gone has missed what came since: from the beginning.
        after = "0" if self._ever_joined else self._after
        await self._join(keys=[GROUPS, *streams], args=[self.group, after, 0])
        self._joined |= topics
        self._ever_joined = True

    async def _look(self) -> None:
        """Join new topics, show life, and hold a fair share of the partitions."""
        await self._join_topics()
        places = self._hands.places
        members, *mine = await self._meet(
            keys=[MEMBERS_PREFIX + self.group, *map(self._lease_of, places)],
            args=[self._me, self._lease_ms, self._past],
        )
        for place, still in zip(places, mine, strict=True):
            if not still:
                self._lose(place)
        # Of each topic by itself: who held all of a busy one and none of a quiet one would have its share as well.
        share = -(-PARTITIONS // max(int(members), 1))
        for topic in sorted(self._joined):
            every = places_of(topic)
            held = [place for place in every if self._hands.holds(place)]
            surplus = len(held) - share
            if surplus > 0:
                idle = [one for one in held if self._hands.idle(one) and not self._hands.waiting(one)]
                await self._give_up(idle[:surplus])
            elif surplus < 0:
                free = [place for place in every if place not in held and self._hands.may_return(place)]
                # Not all members ask for the same ones first.
                random.shuffle(free)
                await self._take_over(free, -surplus)
        self._past = ""

    async def _give_up(self, places: list[Place]) -> None:
        if places:
            await self._release(keys=[self._lease_of(place) for place in places], args=[self._me])
        for place in places:
            self._lose(place)

    async def _take_over(self, places: list[Place], most: int) -> None:
        if not places:
            return
        took = await self._acquire(
            keys=[self._lease_of(place) for place in places], args=[self._me, self._lease_ms, most, self._past]
        )
        taken = [place for place, got in zip(places, took, strict=True) if got]
        for place in taken:
            self._hands.hold(place)
            self._cursors[place] = "0-0"
        if self._closed.is_set():
            await self._give_up(taken)

    def _lose(self, place: Place) -> None:
        self._hands.lose(place)
        self._cursors.pop(place, None)
        self._tails.pop(place, None)

    # -- settling --------------------------------------------------------------------------------

    async def _renew(self) -> None:
        places = self._hands.places
        _, *mine = await ask(
            self._meet(
                keys=[MEMBERS_PREFIX + self.group, *map(self._lease_of, places)], args=[self._me, self._lease_ms, ""]
            )
        )
        for place, still in zip(places, mine, strict=True):
            if not still:
                self._lose(place)

    async def _acknowledge(self, mine: dict[Place, list[Delivery]]) -> None:
        while mine:
            # One answer for several partitions, and no command longer than a server takes.
            some = {place: mine[place][:ACKS] for place in list(mine)[:PARTITIONS]}
            args = [" ".join(one.position for one in deliveries_of) for deliveries_of in some.values()]
            keys = [key for place in some for key in (stream_of(place), self._lease_of(place))]
            answers = await ask(self._ack(keys=keys, args=[self._me, self.group, *args]))
            for (place, acked), answer in zip(some.items(), answers, strict=True):
                self._settled(place, acked, answer)
                mine[place] = mine[place][ACKS:]
                if not mine[place]:
                    del mine[place]

    def _settled(self, place: Place, some: list[Delivery], answer: int) -> None:
        if answer < 0:
            self._lose(place)
            self._mine(some)
        else:
            self._hands.settle(place, some)
        self._changed.set()

    async def _put_aside(self, delivery: Delivery, noted: dict[str, str]) -> None:
        place = delivery.place
        fields: dict[str, bytes | str] = {
            "e": delivery.raw,
            "t": delivery.event.type if delivery.event else "",
            "at": f"{time.time():.3f}",
            **noted,
        }
        answer = await ask(
            self._dead(
                keys=[stream_of(place), self._lease_of(place), DEAD_PREFIX + self.group],
                args=[self._me, self.group, delivery.position, DEAD_KEEP, *chain(*fields.items())],
            )
        )
        self._stats.lost += max(int(answer), 0)
        self._settled(place, [delivery], int(answer))

    async def _go_to(self, start: Start) -> None:
        await ask(self._seek_all(start))
        self._cursors = dict.fromkeys(self._hands.places, ">")
        self._tails.clear()

    async def _seek_all(self, start: Start) -> None:
        await self._join_topics()
        streams = [stream_of(place) for topic in self._joined for place in places_of(topic)]
        await self._seek(keys=streams, args=[self.group, after(start)])
