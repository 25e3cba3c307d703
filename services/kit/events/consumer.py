"""The consumer: one loop for every broker, from the Transport seam to a handler whose effects happen once.

Partitions are read in order and beside each other. A handler runs in the transaction that notes its event in the
inbox, and the event is acknowledged after that commit: a crash anywhere repeats the delivery, and the inbox makes
the repeat do nothing. While handlers run, the leases of what is in hand are renewed. An event that fails is tried
again in place while its key alone waits; then it is parked as a row of the consumer's own store, and later events
of its key are parked behind it, in order, until it is dealt with.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from opentelemetry import metrics

from ..checks import Unwell
from .cloudevent import encode
from .lanes import Lane, Outcome, Park
from .retry import Away, Backoff
from .signing import Keys
from .transport.base import Delivery, Place, Start, Subscription, Transport, TransportAway

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
consumed = meter.create_counter("mc.bus.handled", description="Events delivered to a consumer, by outcome")
behind = meter.create_gauge("mc.bus.lag", description="Events that a group has not acknowledged")
forged = meter.create_counter("mc.bus.forged", description="Events refused, for nobody proved that they are true")
parked = meter.create_gauge("mc.bus.parked", description="Events that a group holds as rows, failed or behind one")
missing = meter.create_gauge("mc.bus.missing", description="Events that a group knows it did not get")

LEASE_S: Final = 30.0
BATCH: Final = 64
"""Events handled in one transaction at most."""
IN_HAND: Final = 512
"""Deliveries that a consumer holds at most, of all its partitions."""
WAIT_S: Final = 2.0
"""One wait for new events."""
LOOK_EVERY_S: Final = 5.0
"""Between two looks at how far behind the group is, and at what it has parked."""
SILENT_S: Final = 10.0
"""A bus that has not answered for so long is unwell."""
LATE_S: Final = 60.0
"""A consumer whose newest event is older than that, while more wait, is behind."""
RESUME_EVERY_S: Final = 10.0
"""The longest time until an operator's word about a parked event is heard."""
AWAY_S: Final = 0.5
"""Before a partition is tried again whose database or bus did not answer."""
ACK_AGAIN_S: Final = 0.5
PAUSES: Final = Backoff(first_s=0.5, most_s=5.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a consumer's store holds besides its work."""

    parked: int = 0
    """Events that failed for good, and those behind them."""
    odd: int = 0
    """Entries that were no events."""
    forged: int = 0
    """Events that nobody proved to be of their source."""
    missing: int = 0
    """Events that are known not to have come."""


class Inbox(Protocol):
    """A consumer's own store. Everything raises ``Away`` while the database does not answer."""

    async def begin(self) -> None:
        """A new life: what is parked is due again, except what ended earlier lives."""

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        """Handle these events in order, each with its inbox row, all in one transaction; one outcome each.

        The first is always dealt with; the batch may end early. ``careful``: note first that they are about to be
        handled, so that one that ends the process is known by it in a later life.
        """

    async def park(self, park: Park) -> None:
        """Keep the event as a row; later ones of its key go behind it."""

    async def put_aside(self, delivery: Delivery) -> bool:
        """Keep what is no event, or a forged one, as a row; False when there are too many of those."""

    async def resume(self) -> float:
        """Try the parked events that are due, and on success those behind them; seconds until the next one is."""

    async def kept(self) -> Kept:
        """What it holds."""


class Consumer:
    """Feeds the events that match ``patterns`` to ``inbox``, as ``member`` of ``group``.

    Only those that ``keys`` know to be of their source: the others are put aside before anything is made of them. With
    no keys at all it does not begin, for then nothing could be told.
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
        start: Start = "earliest",
        topics: Collection[str] = (),
        lease_s: float = LEASE_S,
    ) -> None:
        self._transport = transport
        self._inbox = inbox
        self._patterns = list(patterns)
        self._keys = keys
        self.group = group
        self._member = member
        self._begin: Start = start
        self._topics = topics
        self._lease_s = lease_s
        self._lanes: dict[Place, _Work] = {}
        self.room = asyncio.Event()
        self.stopping = asyncio.Event()
        self.something_parked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._answered_at = -math.inf
        self._kept = Kept()
        self._lag = 0
        self._lagging_since = math.inf
        self.newest_at = time.time()
        """When the last event happened that was handled (wall clock)."""

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
        if time.monotonic() - self._answered_at > SILENT_S:
            raise Unwell("events can't be read from the bus")

    async def probe_whole(self) -> None:
        """Unwell when it works and is not whole: behind, with events parked, or with a hole."""
        said = []
        late = time.time() - self.newest_at
        if min(late, time.monotonic() - self._lagging_since) > LATE_S:
            said.append(f"it is {late:.0f} s behind, with {self._lag} events to go")
        if self._kept.parked:
            said.append(f"it holds {self._kept.parked} parked events")
        if self._kept.odd:
            said.append(f"it was sent {self._kept.odd} entries that are no events")
        if self._kept.forged:
            said.append(f"it refused {self._kept.forged} forged events")
        if self._kept.missing:
            said.append(f"{self._kept.missing} events never came")
        if said:
            raise Unwell("; ".join(said))

    async def run(self) -> None:
        """Consume until stopped."""
        async with asyncio.TaskGroup() as parts:
            subscription = await self._subscribe()
            if subscription is None:
                return
            try:
                leases = parts.create_task(self._extend(subscription), name="leases")
                helpers = [
                    parts.create_task(self._resume(), name="parked events"),
                    parts.create_task(self._look(), name="lag"),
                ]
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
                    self._patterns,
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

    @property
    def in_hand(self) -> int:
        """Deliveries that were fetched and are not settled."""
        return sum(work.held for work in self._lanes.values())

    # -- reading -----------------------------------------------------------------------------------

    async def _read(self, subscription: Subscription, parts: asyncio.TaskGroup) -> None:
        tries = 0
        while not self.stopping.is_set():
            self.room.clear()
            if self.in_hand >= IN_HAND:
                await self._either(self.room.wait())
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
            for delivery in found or []:
                work = self._lanes.get(delivery.place)
                if work is None:
                    work = self._lanes[delivery.place] = _Work(self, self._inbox, subscription)
                    work.task = parts.create_task(work.run(), name=f"{delivery.topic}/{delivery.partition}")
                work.add(self._proven(delivery))

    def _proven(self, delivery: Delivery) -> Delivery:
        """The delivery as it came, or without its event when that is not of whom it says."""
        event = delivery.event
        why = "" if event is None else self._keys.refusal(event)
        if event is None or not why:
            return delivery
        forged.add(1, {"group": self.group})
        try:
            whole = encode(event)
        except (ValueError, RecursionError):
            whole = delivery.raw
        return replace(delivery, event=None, fault=why, forged=True, raw=whole)

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
            except Away:
                tries += 1
                wait = PAUSES.longest(tries)
            if wait > 0:
                await self._either(_within(self.something_parked.wait(), min(wait, RESUME_EVERY_S)))

    async def _look(self) -> None:
        """Learn how far behind the group is, and what it keeps."""
        where = {"group": self.group}
        while not self.stopping.is_set():
            try:
                self._lag = sum((await self._transport.lag(self.group)).values())
                self._answered_at = time.monotonic()
                self._lagging_since = min(self._lagging_since, self._answered_at) if self._lag else math.inf
                self._kept = await self._inbox.kept()
            except (Away, TransportAway):
                await self.sleep(LOOK_EVERY_S)
                continue
            behind.set(self._lag, where)
            parked.set(self._kept.parked + self._kept.odd + self._kept.forged, where)
            missing.set(self._kept.missing, where)
            await self.sleep(LOOK_EVERY_S)

    async def sleep(self, seconds: float) -> None:
        """Wait, but not past a stop."""
        await _within(self.stopping.wait(), seconds)

    async def _either(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What is waited for, or None at a stop."""
        task, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


class _Work:
    """One partition: takes what its lane gives, has it handled, and settles it."""

    def __init__(self, consumer: Consumer, inbox: Inbox, subscription: Subscription) -> None:
        self._consumer = consumer
        self._inbox = inbox
        self._subscription = subscription
        self._lane = Lane(careful=BATCH)
        self._wake = asyncio.Event()
        self._lost = False
        self._settled: list[Delivery] = []
        self.held = 0
        self.task: asyncio.Task[None]

    def add(self, delivery: Delivery) -> None:
        """One more, after all before."""
        self.held += 1
        self._lane.add([delivery])
        self._wake.set()

    def lose(self) -> None:
        """The partition is somebody else's: nothing of it is settled here any more."""
        self._lost = True
        self._wake.set()

    async def run(self) -> None:
        """Work until the partition is lost or the consumer stops."""
        while not self._lost and not self._consumer.stopping.is_set():
            self._wake.clear()
            batch = self._lane.take(time.monotonic(), BATCH)
            if batch:
                await self._work(batch)
                await self._acknowledge()
                continue
            # What the bus did not take is offered again, with a pause.
            until = time.monotonic() + ACK_AGAIN_S if self._settled else self._lane.wakes_at()
            await self._sleep(until - time.monotonic())
            await self._acknowledge()

    async def _work(self, batch: list[Delivery]) -> None:
        try:
            if batch[0].event is None:
                await self._put_aside(batch[0])
                return
            outcomes = await self._inbox.handle(batch, careful=self._lane.careful(batch))
        except (Away, TransportAway) as error:
            self._lane.put_back(batch)
            log.warning("%s waits: %s", self._consumer.group, error)
            await self._consumer.sleep(AWAY_S)
            return
        verdict = self._lane.settle(batch, outcomes, time.monotonic(), random.random)
        for delivery, outcome in zip(batch, outcomes, strict=True):
            self._note(delivery, outcome)
        self._settled += verdict.done
        for park in verdict.park:
            await self._park(park)

    def _note(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.what in {"held", "later"}:
            return
        consumed.add(1, {"group": self._consumer.group, "outcome": outcome.what})
        if outcome.what == "failed":
            log.warning("event at %s failed: %s: %s", _where(delivery), outcome.kind, outcome.reason)
        elif delivery.event is not None:
            self._consumer.newest_at = delivery.event.time

    async def _park(self, park: Park) -> None:
        while not self._lost and not self._consumer.stopping.is_set():
            try:
                await self._inbox.park(park)
            except Away as error:
                log.warning("%s can't park an event: %s", self._consumer.group, error)
                await self._consumer.sleep(AWAY_S)
                continue
            log.error("event at %s parked after %d tries: %s", _where(park.delivery), park.tries, park.outcome.reason)
            consumed.add(1, {"group": self._consumer.group, "outcome": "parked"})
            self._lane.parked(park.delivery)
            self._settled.append(park.delivery)
            self._consumer.something_parked.set()
            return

    async def _put_aside(self, delivery: Delivery) -> None:
        log.error(
            "entry at %s is %s: %s", _where(delivery), "forged" if delivery.forged else "no event", delivery.fault
        )
        if await self._inbox.put_aside(delivery):
            self._settled.append(delivery)
        else:
            # There are as many as may be kept: the broker's own place for them is bounded by the broker.
            await self._subscription.dead_letter(delivery, delivery.fault)
            self._release(1)
        consumed.add(1, {"group": self._consumer.group, "outcome": "forged" if delivery.forged else "odd"})

    async def _acknowledge(self) -> None:
        if not self._settled or self._lost:
            return
        settled, self._settled = self._settled, []
        try:
            await self._subscription.ack(settled)
        except TransportAway as error:
            log.warning("%s can't acknowledge: %s", self._consumer.group, error)
            self._settled = settled + self._settled
            return
        self._release(len(settled))

    def _release(self, count: int) -> None:
        self.held -= count
        self._consumer.room.set()

    async def _sleep(self, seconds: float) -> None:
        """Until something wakes it, or so long."""
        stop = asyncio.ensure_future(self._consumer.stopping.wait())
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            timeout = None if seconds == math.inf else max(seconds, 0.0)
            await asyncio.wait({stop, wake}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (stop, wake):
                each.cancel()
            await asyncio.gather(stop, wake, return_exceptions=True)


async def _within(waiting: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Wait for it, so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        pass


def _where(delivery: Delivery) -> str:
    what = "" if delivery.event is None else f"{delivery.event.type} {delivery.event.id}, "
    return f"{what}{delivery.topic}/{delivery.partition} {delivery.position}"
