"""A transport and an inbox that live in memory, for tests of the loop between the two. Not for more than one member."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from services.kit.events.cloudevent import CloudEvent, encode
from services.kit.events.inbox import Kept
from services.kit.events.lanes import Outcome, Park
from services.kit.events.transport.base import (
    Delivery,
    Outgoing,
    Place,
    Rejected,
    Start,
    Stats,
    TransportAway,
    partition_of,
)


class Memory:
    """The Transport: a list per partition, and one reader."""

    name = "memory"
    whole = ""

    def __init__(self) -> None:
        self.rows: dict[Place, list[Delivery]] = {}
        self.given: dict[Place, int] = {}
        self.acked: list[str] = []
        self.dead: list[tuple[Delivery, str]] = []
        self.lost: set[Place] = set()
        self.extended = 0
        self.away = False
        self.closed = False
        self.in_hand = self.most_in_hand = 0
        self._more = asyncio.Event()

    async def publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        self.check()
        for out in batch:
            self.put(out.event, partition_of(out))
        return [None] * len(batch)

    def put(self, event: CloudEvent | None, partition: int = 0, attempt: int = 1, raw: bytes = b"") -> None:
        """One entry at the end of a partition."""
        rows = self.rows.setdefault(("t", partition), [])
        body = raw or (encode(event) if event else b"?")
        fault = "" if event else "it is not JSON"
        rows.append(Delivery("t", partition, str(len(rows)), attempt, body, event, fault))
        self._more.set()

    async def subscribe(
        self,
        patterns: Sequence[str],
        group: str,
        member: str,
        *,
        topics: Collection[str] = (),
        start: Start = "earliest",
        lease_s: float = 30.0,
    ) -> Memory:
        self.check()
        return self

    async def fetch(self, most: int, wait_s: float) -> list[Delivery]:
        self.check()
        found: list[Delivery] = []
        for place, rows in self.rows.items():
            fresh = rows[self.given.get(place, 0) :][: most - self.in_hand - len(found)]
            self.given[place] = self.given.get(place, 0) + len(fresh)
            found += fresh
        self.in_hand += len(found)
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        if not found:
            self._more.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._more.wait()
            except TimeoutError:
                pass
        return found

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.check()
        self.in_hand -= len(deliveries)
        self.acked += [one.event.id if one.event else f"odd {one.position}" for one in deliveries]
        self._more.set()

    async def extend(self) -> set[Place]:
        self.check()
        self.extended += 1
        lost, self.lost = self.lost, set()
        return lost

    async def nack(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        raise NotImplementedError

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        self.in_hand -= 1
        self.dead.append((delivery, reason))

    async def seek(self, start: Start) -> None:
        raise NotImplementedError

    def carriers(self, event_type: str) -> list[str]:
        return [self.name]

    async def groups(self) -> set[str]:
        self.check()
        return {"group"}

    async def lag(self, group: str) -> dict[str, int]:
        self.check()
        total = sum(map(len, self.rows.values()))
        return {"t/0": total - len(self.acked) - len(self.dead)}

    def stats(self) -> Stats:
        return Stats()

    async def close(self) -> None:
        self.closed = True

    def check(self) -> None:
        """TransportAway while it is."""
        if self.away:
            raise TransportAway("unplugged")


class Scripted:
    """The Inbox: answers as a test's handler does, and remembers what it was asked."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.handled: list[str] = []
        self.parked: list[Park] = []
        self.behind: list[str] = []
        self.odd: list[Delivery] = []
        self.room_for_odd = True
        self.careful: list[bool] = []

    async def begin(self) -> None:
        pass

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        self.careful.append(careful)
        outcomes: list[Outcome] = []
        failed: set[str] = set()
        for delivery in batch:
            event = delivery.event
            assert event is not None
            if event.partition_key in failed:
                outcomes.append(Outcome("held"))
                continue
            if any(park.delivery.event.partition_key == event.partition_key for park in self.parked):  # type: ignore[union-attr]
                self.behind.append(event.id)
                outcomes.append(Outcome("parked"))
                continue
            outcome = await self.handler(event)
            if outcome is None:
                self.handled.append(event.id)
                outcome = Outcome("handled")
            elif outcome.what == "failed":
                failed.add(event.partition_key)
            outcomes.append(outcome)
        return outcomes

    async def park(self, park: Park) -> None:
        self.parked.append(park)

    async def put_aside(self, batch: Sequence[Delivery]) -> list[bool]:
        if self.room_for_odd:
            self.odd += batch
        return [self.room_for_odd] * len(batch)

    async def resume(self) -> float:
        return 1.0

    async def kept(self) -> Kept:
        forged = sum(one.forged for one in self.odd)
        return Kept(len(self.parked) + len(self.behind), len(self.odd) - forged, forged)
