"""What tests of the Transport seam share: a broker of each kind, a test's own part of it, and members that handle."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.transport.base import (
    Delivery,
    Outgoing,
    Subscription,
    Transport,
)
from services.kit.events.transport.connect import connect
from tests.brokers import KINDS, MARKERS, Broker
from tests.waiting import patient

LEASE_S = patient(1.0)
"""Of a machine that has time."""

COUNT = itertools.count(1)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Broker]]:
    """Starts a broker when it is first asked for."""
    running: dict[str, Broker] = {}

    def start(kind: str) -> Broker:
        if kind not in running:
            made = KINDS[kind](tmp_path_factory.mktemp("broker"))
            running[kind] = made
            made.start()
        return running[kind]

    yield start
    for broker in running.values():
        broker.end()


def param(kind: str) -> Any:
    """A kind of broker, marked by what the machine must have for it."""
    return pytest.param(kind, marks=getattr(pytest.mark, MARKERS[kind]) if kind in MARKERS else ())


@pytest.fixture(params=[param(kind) for kind in KINDS])
def broker(request: pytest.FixtureRequest, started: Callable[[str], Broker]) -> Broker:
    return started(request.param)


class Lane:
    """A test's own part of a broker: topic and groups that no other test uses."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.domain = f"t{next(COUNT)}x{uuid4().hex[:6]}"
        self.pattern = f"{self.domain}.#"
        self.made: list[Transport] = []

    def connect(self) -> Transport:
        self.made.append(connect(self.broker.url))
        return self.made[-1]

    def group(self, name: str) -> str:
        return f"{self.domain}-{name}"

    async def join(
        self, group: str = "g", member: str = "m", *patterns: str, transport: Transport | None = None, **options: Any
    ) -> Subscription:
        return await (transport or self.connect()).subscribe(
            patterns or [self.pattern], self.group(group), member, **({"lease_s": LEASE_S} | options)
        )

    def event(self, kind: str = "thing.done", key: str = "k", **data: object) -> CloudEvent:
        return CloudEvent(
            id=str(uuid4()),
            type=f"{self.domain}.{kind}",
            source="test",
            time=round(time.time(), 3),
            data=data,
            subject="s",
            partition_key=key,
            sequence=next(COUNT),
            correlation_id="c",
            causation_id="d",
            traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        )

    def events(self, count: int, keys: int = 1) -> list[CloudEvent]:
        return [self.event(key=f"k{n % keys}", n=n) for n in range(count)]


@pytest.fixture
async def lane(broker: Broker) -> AsyncIterator[Lane]:
    made = Lane(broker)
    yield made
    for transport in made.made:
        await transport.close()


async def send(transport: Transport, events: Sequence[CloudEvent]) -> None:
    assert await transport.publish([Outgoing(event) for event in events]) == [None] * len(events)


async def take(reader: Subscription, count: int, *, ack: bool = True, seconds: float = 15) -> list[Delivery]:
    """The next ``count`` deliveries."""
    found: list[Delivery] = []
    deadline = time.monotonic() + patient(seconds)
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came: {[one.event or one.fault for one in found]}"
        some = await reader.fetch(count - len(found) if ack else count, 0.2)
        if ack:
            await reader.ack(some)
        found += some
    return found


def numbers(deliveries: Sequence[Delivery]) -> list[Any]:
    return [one.event.data["n"] if one.event else one.fault for one in deliveries]


class Handling:
    """Members of a group that handle what comes, each in a task: ``handled`` is (member, event) in order."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, CloudEvent]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, reader: Subscription, name: str, *, each_s: float = 0.0, most: int = 16) -> None:
        self.tasks.append(asyncio.create_task(self._run(reader, name, each_s, most)))

    async def _run(self, reader: Subscription, name: str, each_s: float, most: int) -> None:
        while True:
            some = await reader.fetch(most, 0.2)
            renewing = asyncio.create_task(self._renew(reader))
            by_place: dict[Any, list[Delivery]] = {}
            for delivery in some:
                by_place.setdefault(delivery.place, []).append(delivery)
            for deliveries in by_place.values():
                for delivery in deliveries:
                    assert delivery.event
                    if each_s:
                        await asyncio.sleep(each_s)
                    self.handled.append((name, delivery.event))
                await reader.ack(deliveries)
            renewing.cancel()
            # Not by suppressing what is raised here: that may be our own end.
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, reader: Subscription) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            assert await reader.extend() == set()

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + patient(seconds)
        while not condition():
            for task in self.tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, f"{len(self.handled)} handled"
            await asyncio.sleep(0.02)

    async def count(self, events: int) -> None:
        await self.until(lambda: len(self.handled) >= events)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def handling() -> AsyncIterator[Handling]:
    made = Handling()
    yield made
    await made.end()


def in_order_once(handled: Sequence[CloudEvent], sent: Sequence[CloudEvent]) -> None:
    """Each exactly once, and those of each key in the order in which they were sent."""
    for key in {event.partition_key for event in sent}:
        mine = [event.data["n"] for event in handled if event.partition_key == key]
        assert mine == [event.data["n"] for event in sent if event.partition_key == key], key


async def nothing_is_left(lane: Lane, reader: Subscription, group: str = "g") -> None:
    """The lag falls to zero while the member goes on reading."""
    bus, deadline = lane.connect(), time.monotonic() + patient(10)
    while any((lag := await bus.lag(lane.group(group))).values()):
        assert time.monotonic() < deadline, lag
        assert await reader.fetch(10, 0.05) == []
