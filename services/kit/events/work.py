"""One partition in a consumer's hands: what comes of it is handled in order, parked or put aside, and acknowledged."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import metrics

from .lanes import Lane, Outcome, Park
from .retry import Away
from .transport.base import Delivery, TransportAway

if TYPE_CHECKING:
    from .consumer import Consumer, Inbox

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
consumed = meter.create_counter("mc.bus.handled", description="Events delivered to a consumer, by outcome")

BATCH: Final = 64
"""Events handled in one transaction at most."""
AWAY_S: Final = 0.5
"""Before a partition is tried again whose database or bus did not answer."""
ACK_AGAIN_S: Final = 0.5


class Settles(Protocol):
    """Where deliveries came from, and are given an end: a Subscription, or who fetched them."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are dealt with."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """It is not to be kept here."""


class Fetched:
    """What was fetched from its publisher is still there: nothing has to be settled."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Nothing."""


class Work:
    """One partition: takes what its lane gives, has it handled, and settles it."""

    def __init__(self, consumer: Consumer, inbox: Inbox, subscription: Settles) -> None:
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
                await self._put_all_aside(batch)
                return
            outcomes = await self._handle(batch)
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
        if any(outcome.what == "parked" for outcome in outcomes):
            self._consumer.rows_changed()

    async def _handle(self, batch: list[Delivery]) -> list[Outcome]:
        """Obey the commands among them, and have the others handled."""
        for delivery in batch:
            if delivery.event is not None:
                await self._consumer.obey(delivery.event)
        wanted = [delivery for delivery in batch if delivery.event is not None and self._consumer.wants(delivery.event)]
        if len(wanted) == len(batch):
            return await self._inbox.handle(batch, careful=self._lane.careful(batch))
        found = iter(await self._inbox.handle(wanted, careful=self._lane.careful(wanted)) if wanted else [])
        chosen = {id(delivery) for delivery in wanted}
        return [next(found) if id(delivery) in chosen else Outcome("obeyed") for delivery in batch]

    def _note(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.what in {"held", "later", "obeyed"}:
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
            self._consumer.rows_changed()
            return

    async def _put_all_aside(self, batch: list[Delivery]) -> None:
        """Beside each other, so that they share commits: whoever floods a topic costs its others little."""
        faults = await asyncio.gather(*map(self._put_aside, batch), return_exceptions=True)
        left = [delivery for delivery, fault in zip(batch, faults, strict=True) if fault is not None]
        for fault in faults:
            if isinstance(fault, Away | TransportAway):
                self._lane.put_back(left)
                log.warning("%s can't put entries aside: %s", self._consumer.group, fault)
                await self._consumer.sleep(AWAY_S)
                return
            if fault is not None:
                raise fault

    async def _put_aside(self, delivery: Delivery) -> None:
        log.error(
            "entry at %s is %s: %s", _where(delivery), "forged" if delivery.forged else "no event", delivery.fault
        )
        if await self._inbox.put_aside(delivery):
            self._settled.append(delivery)
            self._consumer.rows_changed()
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


def _where(delivery: Delivery) -> str:
    what = "" if delivery.event is None else f"{delivery.event.type} {delivery.event.id}, "
    return f"{what}{delivery.topic}/{delivery.partition} {delivery.position}"
