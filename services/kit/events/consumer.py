"""The consumer: one loop for every broker, from the Transport seam to a handler whose effects happen once.

Partitions are read in order and beside each other. A handler runs in the transaction that notes its event in the
inbox, and the event is acknowledged after that commit: a crash anywhere repeats the delivery, and the inbox makes
the repeat do nothing. While handlers run, the leases of what is in hand are renewed. An event that fails is tried
again in place while its key alone waits; then it is parked as a row of the consumer's own store, and later events
of its key are parked behind it, in order, until it is dealt with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import replace
from opentelemetry import metrics

from ..checks import Unwell
from . import patterns as types
from .acks import Settles, Together
from .cloudevent import CloudEvent, EventError, encode
from .condition import Condition
from .inbox import Inbox
from .mending import Mender
from .repair import TOPIC
from .reporting import COMMANDS, Reporter, Rows, read_command
from .retry import Away, Backoff
from .signing import Keys
from .transport.base import Delivery, Place, Start, Subscription, Transport, TransportAway, read
from .work import Fetched, Work, consumed

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
forged = meter.create_counter("mc.bus.forged", description="Events refused, for nobody proved that they are true")

LEASE_S: Final = 30.0
IN_HAND: Final = 1024
"""Deliveries that a consumer holds at most, of all its partitions."""
WAIT_S: Final = 2.0
"""One wait for new events."""
LOOK_EVERY_S: Final = 5.0
"""Between two looks at how far behind the group is, and at what it has parked."""
RESUME_EVERY_S: Final = 10.0
"""The longest time until an operator's word about a parked event is heard."""
PAUSES: Final = Backoff(first_s=0.5, most_s=5.0)

T = TypeVar("T")


class Consumer:
    """Feeds the events that match ``patterns`` to ``inbox``, as ``member`` of ``group``.

    Only those that ``keys`` know to be of their source: the others are put aside before anything is made of them. With
    no keys at all it does not begin, for then nothing could be told. What becomes of ``rows`` is reported to Mission
    Control, whose operators' words about them are obeyed. What the broker loses is fetched by ``mender``.
    """

    def __init__(
        self,
        transport: Transport,
        inbox: Inbox,
        patterns: Sequence[str],
        *,
        keys: Keys,
        group: str,
        member: str,
        rows: Rows | None = None,
        mender: Mender | None = None,
        start: Start = "earliest",
        topics: Collection[str] = (),
        lease_s: float = LEASE_S,
    ) -> None:
        self._transport = transport
        self._inbox = inbox
        self._patterns = list(patterns)
        self._keys = keys
        self._rows = rows
        self._mender = mender
        self._reporter = None if rows is None else Reporter(transport, rows, keys, group)
        self.group = group
        self._member = member
        self._begin: Start = start
        self._topics = topics
        self._lease_s = lease_s
        self._lanes: dict[Place, Work] = {}
        self._parts: asyncio.TaskGroup | None = None
        self._stop: asyncio.Task[None]
        self.room = asyncio.Event()
        self.stopping = asyncio.Event()
        self.something_parked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.condition = Condition(group, transport, inbox, mender)

    # -- its life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to consume, in a task that lives until ``stop``."""
        self._task = asyncio.create_task(self.run(), name=f"consume {self.group}")

    async def stop(self) -> None:
        """Finish the batches in hand, give the rest back, then end."""
        self.stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})
            if fault := self._task.exception():
                log.error("%s ended before it was stopped", self.group, exc_info=fault)
            self._task = None

    async def probe(self) -> None:
        """Unwell when reading does not work, or has ended: what is kept by it grows stale."""
        if self._task is not None and self._task.done():
            raise Unwell(f"the consumer has ended: {self._task.exception()!r}")
        if why := self._keys.usable():
            raise Unwell(why)
        self.condition.reads()

    async def probe_whole(self) -> None:
        """Unwell when it works and is not whole: behind, with events parked, or with a hole."""
        await self.condition.whole()

    async def run(self) -> None:
        """Consume until stopped."""
        async with asyncio.TaskGroup() as parts:
            self._stop = parts.create_task(self._at_stop(), name="stop")
            subscription = await self._subscribe()
            if subscription is None:
                return
            try:
                leases = parts.create_task(self._extend(subscription), name="leases")
                helpers = [
                    parts.create_task(self._resume(), name="parked events"),
                    parts.create_task(self._look(), name="lag"),
                ]
                if self._reporter is not None:
                    helpers.append(parts.create_task(self._reporter.run(self.stopping, self._said()), name="reports"))
                self._parts = parts
                if self._mender is not None:
                    helpers.append(parts.create_task(self._mender.run(self), name="repair"))
                await self._read(subscription, parts)
                # Batches in hand are finished under their leases; what was not begun is given back.
                await asyncio.gather(*(work.task for work in self._lanes.values()), *helpers)
                leases.cancel()
            finally:
                await subscription.close()

    async def _subscribe(self) -> Subscription | None:
        """The subscription, once database and broker are there; None when it is stopped before that."""
        tries = 0
        while not self.stopping.is_set():
            if why := self._keys.usable():
                log.warning("%s can't begin to consume: %s", self.group, why)
                await self.sleep(LOOK_EVERY_S)
                continue
            try:
                await self._inbox.begin()
                return await self._transport.subscribe(
                    [*self._patterns, *([] if self._rows is None else COMMANDS)],
                    self.group,
                    self._member,
                    topics=self._topics,
                    start=self._begin,
                    lease_s=self._lease_s,
                )
            except (Away, TransportAway) as error:
                tries += 1
                log.warning("%s can't begin to consume: %s", self.group, error)
                await self.sleep(PAUSES.pause(tries, random.random()))  # noqa: S311 - jitter
        return None

    # -- what is said of it, and whom it obeys -----------------------------------------------------

    def _said(self) -> dict[str, Any]:
        return {"group": self.group, "patterns": self._patterns, "member": self._member, "service": self.group}

    def rows_changed(self) -> None:
        """Something was parked, tried or put aside."""
        if self._reporter is not None:
            self._reporter.bell.set()

    def wants(self, event: CloudEvent) -> bool:
        """Whether it asked for such an event: commands are read beside what it did."""
        return any(types.matches(one, event.type) for one in self._patterns)

    async def obey(self, event: CloudEvent) -> None:
        """Do what Mission Control says by one of ``COMMANDS``, if it says it to this group. ``Away`` while the database
        does not answer."""
        if self._rows is None:
            return
        try:
            command = read_command(event, self.group)
        except EventError as error:
            log.error("command %s can't be obeyed: %s", event.id, error)
            consumed.add(1, {"group": self.group, "outcome": "unclear"})
            return
        if command is not None:
            found = await self._rows.obey(command)
            log.warning("%s: %s of %d events, %d are here", self.group, event.type, len(command.events), found)
            consumed.add(1, {"group": self.group, "outcome": "obeyed"})
            self.something_parked.set()
            self.rows_changed()

    @property
    def in_hand(self) -> int:
        """Deliveries that were fetched and are not settled."""
        return sum(work.held for work in self._lanes.values())

    # -- reading -----------------------------------------------------------------------------------

    async def _read(self, subscription: Subscription, parts: asyncio.TaskGroup) -> None:
        tries, settles = 0, Together(subscription)
        while not self.stopping.is_set():
            self.room.clear()
            if self.in_hand >= IN_HAND:
                await self.room.wait()
                continue
            try:
                wait = min(WAIT_S, self._lease_s / 3)
                found = await self._either(subscription.fetch(IN_HAND, wait))
                tries = 0
            except TransportAway as error:
                tries += 1
                log.warning("%s waits for the bus: %s", self.group, error)
                await self.sleep(PAUSES.pause(tries, random.random()))  # noqa: S311 - jitter
                continue
            places: dict[Place, list[Delivery]] = {}
            for delivery in found or []:
                places.setdefault(delivery.place, []).append(self._proven(delivery))
            for place, deliveries in places.items():
                self._work_at(place, settles, parts).add(deliveries)

    def _work_at(self, place: Place, subscription: Settles, parts: asyncio.TaskGroup) -> Work:
        work = self._lanes.get(place)
        if work is None:
            work = self._lanes[place] = Work(self, self._inbox, subscription)
            work.task = parts.create_task(work.run(), name=f"{place[0]}/{place[1]}")
        return work

    # -- what the broker lost ----------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.condition.lag and not self.in_hand

    def breaks(self) -> int:
        return self._transport.stats().breaks

    async def offer(self, deliveries: Sequence[Delivery]) -> None:
        assert self._parts is not None  # noqa: S101 - the mender is a part of it
        work = self._work_at((TOPIC, 0), Fetched(), self._parts)
        wanted = [self._proven(one) for one in deliveries if one.event is None or self.wants(one.event)]
        work.add(wanted)
        while work.held and not self.stopping.is_set():
            self.room.clear()
            await self.room.wait()

    async def sleep_until(self, bell: asyncio.Event, seconds: float) -> None:
        await self._either(_within(bell.wait(), max(seconds, 0.0)))

    def _proven(self, delivery: Delivery) -> Delivery:
        """The delivery as it came, or without its event when that is not of whom it says."""
        event = delivery.event
        why = "" if event is None else self._keys.refusal(event)
        if event is None or not why:
            return delivery
        forged.add(1, {"group": self.group})
        return replace(delivery, event=None, fault=why, forged=True, raw=_whole(delivery.raw, event))

    async def _extend(self, subscription: Subscription) -> None:
        """Renew the leases of what is in hand; drop what was lost all the same."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            if not self.in_hand:
                continue
            try:
                lost = await subscription.extend()
            except TransportAway as error:
                log.warning("%s can't renew its leases: %s", self.group, error)
                continue
            for place in lost:
                if (work := self._lanes.pop(place, None)) is not None:
                    work.lose()
                    self.room.set()
                    consumed.add(work.held, {"group": self.group, "outcome": "lost"})

    async def _resume(self) -> None:
        """Try parked events when they are due."""
        tries = 0
        while not self.stopping.is_set():
            self.something_parked.clear()
            try:
                wait = await self._inbox.resume()
                tries = 0
                if wait == 0.0:
                    self.rows_changed()
            except Away:
                tries += 1
                wait = PAUSES.longest(tries)
            if wait > 0:
                await self._either(_within(self.something_parked.wait(), min(wait, RESUME_EVERY_S)))

    async def _look(self) -> None:
        """Learn, again and again, how it does."""
        while not self.stopping.is_set():
            with contextlib.suppress(Away, TransportAway):
                await self.condition.look()
            await self.sleep(LOOK_EVERY_S)

    async def sleep(self, seconds: float) -> None:
        """Wait, but not past a stop."""
        await _within(self.stopping.wait(), seconds)

    async def _either(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What is waited for, or None at a stop."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task, self._stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _at_stop(self) -> None:
        """Wake all that wait for something else."""
        await self.stopping.wait()
        self.room.set()
        for work in self._lanes.values():
            work.wake()


def _whole(raw: bytes, event: CloudEvent) -> bytes:
    """All that an entry says, where a binary mode has only its data in ``raw``."""
    try:
        return raw if read(raw)[0] == event else encode(event)
    except (ValueError, RecursionError):
        return raw


async def _within(waiting: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Wait for it, so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        pass
