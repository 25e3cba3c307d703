"""One partition in a consumer's hands: what comes of it is handled in order, parked or put aside, and acknowledged."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from opentelemetry import metrics

from .acks import Settles
from .cloudevent import CloudEvent
from .condition import Condition
from .inbox import Inbox
from .lanes import Lane, Outcome, Park
from .reporting import COMMANDS
from .retry import Away
from .transport.base import Delivery, TransportAway

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
consumed = meter.create_counter("mc.bus.handled", description="Events delivered to a consumer, by outcome")

BATCH: Final = 256
"""Events handled in one transaction at most, as far as its time goes."""
DEAD_AT_ONCE: Final = 8
"""Entries that one partition hands to the broker's place for them: each may take a connection, and there are 100."""
AWAY_S: Final = 0.5
"""Before a partition is tried again whose database or bus did not answer."""
ACK_AGAIN_S: Final = 0.5


class Fetched:
    """What was fetched from its publisher is still there: nothing has to be settled."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Nothing."""


class Owner(Protocol):
    """The consumer, as its partitions see it."""

    group: str
    condition: Condition
    stopping: asyncio.Event
    room: asyncio.Event
    """Set when something was settled."""
    something_parked: asyncio.Event

    def wants(self, event: CloudEvent) -> bool:
        """Whether it asked for such an event."""

    async def obey(self, event: CloudEvent) -> None:
        """Do what a command says; ``Away``."""

    def rows_changed(self) -> None:
        """Something was parked, tried or put aside."""

    async def sleep(self, seconds: float) -> None:
        """Wait, but not past a stop."""


class Work:
    """One partition: takes what its lane gives, has it handled, and settles it."""

    def __init__(self, consumer: Owner, inbox: Inbox, subscription: Settles) -> None:
        self._consumer = consumer
        self._inbox = inbox
        self._subscription = subscription
        self._lane = Lane(careful=BATCH)
        self._wake = asyncio.Event()
        self._lost = False
        self._settled: list[Delivery] = []
        self._refused = False
        """The bus took no acknowledgement the last time; said once."""
        self.held = 0
        self.task: asyncio.Task[None]

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """More of it, after all before."""
        self.held += len(deliveries)
        self._lane.add(deliveries)
        self._wake.set()

    def lose(self) -> None:
        """The partition is somebody else's: nothing of it is settled here any more."""
        self._lost = True
        self._wake.set()

    def wake(self) -> None:
        """The consumer stops."""
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
        odd = [delivery for delivery in batch if delivery.event is None]
        if odd:
            await self._put_aside(odd)
            batch = [delivery for delivery in batch if delivery.event is not None]
        if not batch:
            return
        try:
            outcomes = await self._handle(batch)
        except (Away, TransportAway) as error:
            await self._again(batch, error)
            return
        verdict = self._lane.settle(batch, outcomes, time.monotonic(), random.random)
        self._note(batch, outcomes)
        self._settled += verdict.done
        for park in verdict.park:
            await self._park(park)

    async def _again(self, batch: list[Delivery], error: Exception) -> None:
        """Nothing became of ``batch``: after a pause."""
        self._lane.put_back(batch)
        log.warning("%s waits: %s", self._consumer.group, error)
        await self._consumer.sleep(AWAY_S)

    async def _handle(self, batch: list[Delivery]) -> list[Outcome]:
        """Obey the commands among them, and have the others handled."""
        obeyed = set()
        for delivery in batch:
            if delivery.event is not None and delivery.event.type in COMMANDS:
                await self._consumer.obey(delivery.event)
                if not self._consumer.wants(delivery.event):
                    obeyed.add(id(delivery))
        wanted = [delivery for delivery in batch if id(delivery) not in obeyed] if obeyed else batch
        found = iter(await self._inbox.handle(wanted, careful=self._lane.careful(wanted)) if wanted else [])
        return [Outcome("obeyed") if id(delivery) in obeyed else next(found) for delivery in batch]

    def _note(self, batch: Sequence[Delivery], outcomes: Sequence[Outcome]) -> None:
        counts = Counter(outcome.what for outcome in outcomes)
        for what, count in counts.items():
            if what not in {"held", "later", "obeyed"}:
                consumed.add(count, {"group": self._consumer.group, "outcome": what})
        if counts["parked"]:
            self._consumer.rows_changed()
        for delivery, outcome in zip(batch, outcomes, strict=True):
            if outcome.what == "failed":
                log.warning("event at %s failed: %s: %s", _where(delivery), outcome.kind, outcome.reason)
            elif outcome.what in {"handled", "duplicate", "parked"} and delivery.event is not None:
                self._consumer.condition.newest_at = delivery.event.time

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
            self._consumer.rows_changed()
            return

    async def _put_aside(self, odd: list[Delivery]) -> None:
        """In one transaction, and with one line in the log: whoever floods a topic costs its others little."""
        try:
            kept = await self._inbox.put_aside(odd)
        except Away as error:
            await self._again(odd, error)
            return
        forged = sum(delivery.forged for delivery in odd)
        for what, count in {"forged": forged, "odd": len(odd) - forged}.items():
            if count:
                consumed.add(count, {"group": self._consumer.group, "outcome": what})
        told = "%s was sent %d entries that are no events and %d that are forged, the first at %s: %s"
        log.error(told, self._consumer.group, len(odd) - forged, forged, _where(odd[0]), odd[0].fault)
        self._settled += [delivery for delivery, is_kept in zip(odd, kept, strict=True) if is_kept]
        self._consumer.rows_changed()
        # There are as many as may be kept: the broker's own place for them is bounded by the broker.
        rest = [delivery for delivery, is_kept in zip(odd, kept, strict=True) if not is_kept]
        faults: list[BaseException | None] = []
        for start in range(0, len(rest), DEAD_AT_ONCE):
            ends = [self._subscription.dead_letter(one, one.fault) for one in rest[start : start + DEAD_AT_ONCE]]
            faults += await asyncio.gather(*ends, return_exceptions=True)
        left = []
        for delivery, fault in zip(rest, faults, strict=True):
            if fault is None:
                self._release(1)
            elif isinstance(fault, TransportAway):
                left.append(delivery)
            else:
                raise fault
        if left:
            await self._again(left, TransportAway("the bus does not take what is no event"))

    async def _acknowledge(self) -> None:
        if not self._settled or self._lost:
            return
        settled, self._settled = self._settled, []
        try:
            await self._subscription.ack(settled)
        except TransportAway as error:
            if not self._refused:
                log.warning("%s can't acknowledge: %s", self._consumer.group, error)
            self._refused = True
            self._settled = settled + self._settled
            return
        self._refused = False
        self._release(len(settled))

    def _release(self, count: int) -> None:
        self.held -= count
        self._consumer.room.set()

    async def _sleep(self, seconds: float) -> None:
        """Until something wakes it, or so long."""
        try:
            async with asyncio.timeout(None if seconds == math.inf else max(seconds, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            pass


def _where(delivery: Delivery) -> str:
    what = "" if delivery.event is None else f"{delivery.event.type} {delivery.event.id}, "
    return f"{what}{delivery.topic}/{delivery.partition} {delivery.position}"
