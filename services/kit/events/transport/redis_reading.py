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
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import redis.asyncio
from redis.exceptions import TimeoutError as RedisSilent

from ..retry import Backoff
from . import redis_scripts as scripts
from .base import ANSWER_S, PARTITIONS, Delivery, Place, Start, TransportError, Wanted, read
from .hands import Hands
from .redis_wire import (
    ANY,
    DEAD_PREFIX,
    GROUPS,
    LEASE_PREFIX,
    MEMBERS_PREFIX,
    Counts,
    after,
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
ACKS: Final = 500
"""Entries of a partition that one command acknowledges."""
BLOCK_S: Final = 2.0
"""How long Redis is asked to wait for an entry."""
PAUSES: Final = Backoff(first_s=0.4, most_s=5.0)


class Reading:
    """One member's Subscription."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        counts: Counts,
        wanted: Wanted,
        group: str,
        member: str,
        after_id: str,
        lease_s: float,
    ) -> None:
        self._client, self._counts, self._wanted = client, counts, wanted
        self._group, self._after = group, after_id
        self._past = f"{member}|"
        """With what the names of earlier processes of this member begin; asked once, at the first meeting."""
        self._me = self._past + secrets.token_hex(8)
        self._lease_ms = int(lease_s * 1000)
        self._every_s = min(lease_s / 3, LOOK_S)
        self._hands = Hands()
        self._cursors: dict[Place, str] = {}
        self._tails: dict[Place, str] = {}
        self._odd: dict[Place, str] = {}
        """What was said of streams that can't be read; said once."""
        self._joined: set[str] = set()
        self._ever_joined = False
        self._look_at = 0.0
        self._tries = 0
        self._changed = asyncio.Event()
        """Set when there may be something to do before the time for it."""
        self._coming: asyncio.Future[Any] | None = None
        """Waits for an entry after those that ``_awaited`` names, by stream."""
        self._awaited: dict[str, str] = {}
        self._silent_at = 0.0
        self._closed = asyncio.Event()
        script = client.register_script
        self._join, self._meet, self._acquire = script(scripts.JOIN), script(scripts.MEET), script(scripts.ACQUIRE)
        self._release, self._read, self._ack = script(scripts.RELEASE), script(scripts.READ), script(scripts.ACK)
        self._dead, self._seek = script(scripts.DEAD_LETTER), script(scripts.SEEK)

    async def begin(self) -> None:
        """Make the groups, so that what is published from now on is theirs; if Redis is away, ``fetch`` does it."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._join_topics()
        except ANY as error:
            self._says_away(error)

    async def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._changed.set()
        await self._await_nothing()
        leases = [self._lease_of(place) for place in self._hands.places]
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._release(keys=leases, args=[self._me])
                await self._client.zrem(MEMBERS_PREFIX + self._group, self._me)
        except ANY as error:
            log.warning("Group %s: leases are not given back but run out: %s", self._group, error)

    # -- reading ---------------------------------------------------------------------------------

    async def fetch(self, most: int, wait_s: float) -> list[Delivery]:
        deadline = time.monotonic() + wait_s
        while not self._closed.is_set():
            try:
                found = await self._round(most, deadline)
                if self._tries:
                    log.warning("Group %s reads again.", self._group)
                self._tries = 0
            except ANY as error:
                if self._closed.is_set():
                    break
                self._says_away(error)
                await self._await_nothing()
                pause = PAUSES.pause(self._tries, random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                found = []
                await self._sleep_until(min(time.monotonic() + pause, deadline))
            if found or time.monotonic() >= deadline:
                return found
        return []

    def _says_away(self, error: Exception) -> None:
        if not self._tries:
            log.warning("Group %s waits for Redis: %s", self._group, error or type(error).__name__)
            self._counts.breaks += 1
        self._tries += 1
        # What Redis forgets meanwhile has to be made anew.
        self._joined.clear()
        self._look_at = 0.0

    async def _round(self, most: int, deadline: float) -> list[Delivery]:
        """One step: look around when it is time, give out what is there, read, or wait for a while."""
        self._changed.clear()
        if time.monotonic() >= self._look_at:
            async with asyncio.timeout(ANSWER_S):
                await self._look()
            self._look_at = time.monotonic() + self._every_s
        if found := self._hands.take(most, time.monotonic()):
            return found
        room = self._hands.room(most)
        places = [place for place in self._hands.places if not self._hands.waiting(place)]
        if room > 0 and places and not self._awaits(places):
            async with asyncio.timeout(ANSWER_S):
                more = await self._read_some(places, room)
            if more:
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
        rows = await self._read(keys=keys, args=[self._me, self._lease_ms, self._group, room, *cursors])
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
                if self._hands.knows(place, entry.decode()):
                    continue
                attempt = int(counts[number]) if number < len(counts) else 1
                delivery = self._delivery(place, entry.decode(), attempt, fields)
                if delivery is None:
                    skipped.append((place, entry))
                else:
                    self._hands.stock([delivery])
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
                pipe.xack(stream_of(place), self._group, entry)
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
        if event is None:
            self._counts.malformed += 1
        elif event.type not in self._wanted:
            return None
        return Delivery(*place, position, attempt, raw, event, fault)

    def _odd_stream(self, place: Place, why: str) -> None:
        """Reading it is an error: the group is gone with what Redis forgot, or the key holds something else."""
        if why.startswith("NOGROUP"):
            self._joined.discard(place[0])
            self._look_at = 0.0
            self._counts.breaks += 1
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
            coming.result()
        elif time.monotonic() >= self._silent_at:
            raise RedisSilent("it does not answer")

    async def _await_nothing(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _sleep_until(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0.001)):
                await self._changed.wait()
        except TimeoutError:
            pass

    # -- partitions ------------------------------------------------------------------------------

    def _lease_of(self, place: Place) -> str:
        return f"{LEASE_PREFIX}{self._group}:{place[0]}:{place[1]}"

    async def _join_topics(self) -> None:
        wanted = self._wanted.topics
        topics = (wanted if wanted is not None else await topics_of(self._client)) - self._joined
        if not topics:
            return
        streams = [stream_of(place) for topic in topics for place in places_of(topic)]
        # Whoever joined once and finds its group gone has missed what came since: from the beginning.
        after = "0" if self._ever_joined else self._after
        await self._join(keys=[GROUPS, *streams], args=[self._group, after, 0])
        self._joined |= topics
        self._ever_joined = True

    async def _look(self) -> None:
        """Join new topics, show life, and hold a fair share of the partitions."""
        await self._join_topics()
        places = self._hands.places
        members, *mine = await self._meet(
            keys=[MEMBERS_PREFIX + self._group, *map(self._lease_of, places)],
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

    async def extend(self) -> set[Place]:
        places = self._hands.places
        try:
            async with asyncio.timeout(ANSWER_S):
                _, *mine = await self._meet(
                    keys=[MEMBERS_PREFIX + self._group, *map(self._lease_of, places)],
                    args=[self._me, self._lease_ms, ""],
                )
        except ANY as error:
            raise away(error) from None
        for place, still in zip(places, mine, strict=True):
            if not still:
                self._lose(place)
        return self._hands.told()

    def _mine(self, deliveries: Sequence[Delivery]) -> dict[Place, list[Delivery]]:
        mine = self._hands.mine(deliveries)
        self._counts.late += len(deliveries) - sum(map(len, mine.values()))
        return mine

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        mine = self._mine(deliveries)
        while mine:
            # One answer for several partitions, and no command longer than a server takes.
            some = {place: mine[place][:ACKS] for place in list(mine)[:PARTITIONS]}
            args = [" ".join(one.position for one in deliveries_of) for deliveries_of in some.values()]
            keys = [key for place in some for key in (stream_of(place), self._lease_of(place))]
            try:
                async with asyncio.timeout(ANSWER_S):
                    answers = await self._ack(keys=keys, args=[self._me, self._group, *args])
            except ANY as error:
                raise away(error) from None
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

    async def nack(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        # They stay ours on Redis: another member gets them only with the partition.
        for place, some in self._mine(deliveries).items():
            self._hands.give_back(place, some, time.monotonic() + delay_s)
        self._changed.set()

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        if not self._mine([delivery]):
            return
        place = delivery.place
        fields: dict[str, bytes | str | int] = {
            "e": delivery.raw,
            "t": delivery.event.type if delivery.event else "",
            "topic": delivery.topic,
            "partition": delivery.partition,
            "position": delivery.position,
            "reason": reason[:1000],
            "at": f"{time.time():.3f}",
        }
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._dead(
                    keys=[stream_of(place), self._lease_of(place), DEAD_PREFIX + self._group],
                    args=[self._me, self._group, delivery.position, DEAD_KEEP, *chain(*fields.items())],
                )
        except ANY as error:
            raise away(error) from None
        self._counts.lost += max(int(answer), 0)
        self._settled(place, [delivery], int(answer))

    async def seek(self, start: Start) -> None:
        if self._hands.in_hand:
            raise TransportError("Settle what is in hand before you seek.")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._join_topics()
                streams = [stream_of(place) for topic in self._joined for place in places_of(topic)]
                await self._seek(keys=streams, args=[self._group, after(start)])
        except ANY as error:
            raise away(error) from None
        self._hands.clear()
        for place in self._hands.places:
            self._cursors[place] = ">"
        self._tails.clear()
        self._changed.set()
