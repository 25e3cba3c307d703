"""The consumer's loop, between a transport and an inbox that live in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from services.kit.checks import Unwell
from services.kit.events import condition, lanes, work
from services.kit.events import consumer as loop
from services.kit.events.cloudevent import CloudEvent, decode, encode
from services.kit.events.consumer import Consumer
from services.kit.events.lanes import Outcome
from services.kit.events.retry import Away, Backoff
from services.kit.events.signing import CONTROL, Ring
from services.kit.events.transport.base import Delivery
from tests.signed import KEYS
from tests.unit.kit.events.memory import Memory, Scripted
from tests.waiting import patient

FAILED = Outcome("failed", "no", "ValueError")


def event(name: str) -> CloudEvent:
    return KEYS.sign(CloudEvent(name, "t.thing.done", "tests", time.time(), {}, partition_key=name[0]), "tests")


async def soon(condition: Callable[[], Any]) -> None:
    """Until it holds."""
    async with asyncio.timeout(patient(5)):
        while True:
            found = condition()
            if await found if isinstance(found, Coroutine) else found:
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def consuming(bus: Memory, inbox: Scripted, **options: Any) -> AsyncIterator[Consumer]:
    options = {"keys": KEYS} | options
    consumer = Consumer(bus, inbox, ["t.#"], group="g", member="m", **options)
    await consumer.start()
    try:
        yield consumer
    finally:
        async with asyncio.timeout(patient(5)):
            await consumer.stop()


async def fine(_: CloudEvent) -> None:
    return None


def failing(*names: str, times: int = 10**6) -> Callable[[CloudEvent], Awaitable[Outcome | None]]:
    left = dict.fromkeys(names, times)

    async def handler(event: CloudEvent) -> Outcome | None:
        if left.get(event.id, 0) > 0:
            left[event.id] -= 1
            return FAILED
        return None

    return handler


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "RETRY", Backoff(first_s=0.01, most_s=0.02, attempts=3))
    monkeypatch.setattr(work, "AWAY_S", 0.01)
    monkeypatch.setattr(work, "ACK_AGAIN_S", 0.01)
    monkeypatch.setattr(loop, "LOOK_EVERY_S", 0.02)


async def test_events_are_handled_in_order_and_acknowledged() -> None:
    bus, inbox = Memory(), Scripted(fine)
    async with consuming(bus, inbox):
        for number in range(200):
            bus.put(event(f"a{number}"))
        await soon(lambda: len(bus.acked) == 200)
    assert inbox.handled == bus.acked == [f"a{number}" for number in range(200)]
    assert bus.closed


async def test_partitions_go_beside_each_other() -> None:
    gate = asyncio.Event()

    async def handler(event: CloudEvent) -> None:
        if event.id == "a1":
            await gate.wait()

    bus, inbox = Memory(), Scripted(handler)
    bus.put(event("a1"), 0)
    bus.put(event("b1"), 1)
    async with consuming(bus, inbox):
        await soon(lambda: bus.acked == ["b1"])
        gate.set()
        await soon(lambda: bus.acked == ["b1", "a1"])


async def test_leases_are_renewed_while_a_handler_runs() -> None:
    gate = asyncio.Event()

    async def handler(_: CloudEvent) -> None:
        await gate.wait()

    bus, inbox = Memory(), Scripted(handler)
    bus.put(event("a1"))
    async with consuming(bus, inbox, lease_s=0.03):
        await soon(lambda: bus.extended >= 5)
        gate.set()
        await soon(lambda: bus.acked == ["a1"])


async def test_what_fails_for_good_is_parked_with_what_follows_in_its_key_and_nobody_elses() -> None:
    bus, inbox = Memory(), Scripted(failing("a1"))
    for name in ("a1", "b1", "a2", "b2", "a3"):
        bus.put(event(name))
    async with consuming(bus, inbox) as consumer:
        await soon(lambda: len(bus.acked) == 5)
        await soon(lambda: consumer.condition.kept.parked == 3)
        await consumer.probe()
        with pytest.raises(Unwell, match="holds 3 parked events"):
            await consumer.probe_whole()
    assert inbox.handled == ["b1", "b2"]
    assert [park.tries for park in inbox.parked] == [3]
    assert inbox.behind == ["a2", "a3"]


async def test_what_fails_for_a_while_is_handled_in_its_place() -> None:
    bus, inbox = Memory(), Scripted(failing("a1", times=2))
    for name in ("a1", "a2"):
        bus.put(event(name))
    async with consuming(bus, inbox):
        await soon(lambda: len(bus.acked) == 2)
    assert inbox.handled == ["a1", "a2"] and not inbox.parked


async def test_a_database_that_is_away_costs_no_attempt() -> None:
    left = [Away("full")] * 8

    async def handler(_: CloudEvent) -> None:
        if left:
            raise left.pop()

    bus, inbox = Memory(), Scripted(handler)
    bus.put(event("a1"))
    bus.put(event("a2"))
    async with consuming(bus, inbox):
        await soon(lambda: len(bus.acked) == 2)
    assert inbox.handled == ["a1", "a2"] and not inbox.parked


async def test_a_lost_partition_is_dropped_and_nothing_of_it_acknowledged() -> None:
    gate = asyncio.Event()

    async def handler(event: CloudEvent) -> None:
        if event.id == "a1":
            await gate.wait()

    bus, inbox = Memory(), Scripted(handler)
    bus.put(event("a1"))
    async with consuming(bus, inbox, lease_s=0.03) as consumer:
        await soon(lambda: consumer.in_hand == 1)
        bus.lost = {("t", 0)}
        await soon(lambda: consumer.in_hand == 0)
        gate.set()
        bus.put(event("b1"), 1)
        await soon(lambda: bus.acked == ["b1"])
    assert inbox.handled == ["a1", "b1"]


async def test_no_more_is_in_hand_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "IN_HAND", 10)
    gate = asyncio.Event()

    async def handler(_: CloudEvent) -> None:
        await gate.wait()

    bus, inbox = Memory(), Scripted(handler)
    for number in range(50):
        bus.put(event(f"a{number}"))
    async with consuming(bus, inbox) as consumer:
        await soon(lambda: consumer.in_hand == 10)
        gate.set()
        await soon(lambda: len(bus.acked) == 50)
    assert bus.most_in_hand == 10


@pytest.mark.parametrize("room", [True, False])
async def test_what_is_no_event_is_put_aside_and_blocks_nothing(room: bool) -> None:
    bus, inbox = Memory(), Scripted(fine)
    inbox.room_for_odd = room
    bus.put(event("a1"))
    bus.put(None)
    bus.put(event("a2"))
    async with consuming(bus, inbox):
        await soon(lambda: inbox.handled == ["a1", "a2"])
        await soon(lambda: bus.in_hand == 0)
    assert [len(inbox.odd), len(bus.dead)] == ([1, 0] if room else [0, 1])


async def test_a_bus_that_is_away_is_waited_for_and_said() -> None:
    bus, inbox = Memory(), Scripted(fine)
    bus.away = True
    async with consuming(bus, inbox) as consumer:
        with pytest.raises(Unwell, match="can't be read"):
            await consumer.probe()
        bus.away = False
        bus.put(event("a1"))
        await soon(lambda: bus.acked == ["a1"])
        await consumer.probe()
        await consumer.probe_whole()


async def test_a_consumer_that_is_behind_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "LATE_S", 0.05)
    gate = asyncio.Event()

    async def handler(_: CloudEvent) -> None:
        await gate.wait()

    bus, inbox = Memory(), Scripted(handler)
    bus.put(event("a1"))
    async with consuming(bus, inbox) as consumer:

        async def behind() -> bool:
            try:
                await consumer.probe_whole()
            except Unwell as reason:
                return "1 events to go" in str(reason)
            return False

        async def not_behind() -> bool:
            return not await behind()

        await soon(behind)
        gate.set()
        await soon(not_behind)


async def test_a_fault_of_ours_ends_it_and_is_said() -> None:
    async def handler(_: CloudEvent) -> None:
        raise KeyError("a fault")

    bus, inbox = Memory(), Scripted(handler)
    bus.put(event("a1"))
    async with consuming(bus, inbox) as consumer:
        await soon(lambda: consumer._task is not None and consumer._task.done())
        with pytest.raises(Unwell, match="has ended"):
            await consumer.probe()


# -- whom it believes ------------------------------------------------------------------------------


def forgeries() -> list[CloudEvent]:
    true = event("a1")
    return [
        replace(true, extensions={}),
        replace(true, id="a2"),
        replace(true, source=CONTROL),
        Ring.of([("tests", "x" * 48)]).sign(true, "tests"),
    ]


async def test_a_forged_event_reaches_no_handler_and_holds_up_nothing() -> None:
    bus, inbox, tried = Memory(), Scripted(fine), forgeries()
    for number, forged in enumerate(tried):
        bus.put(forged)
        bus.put(event(f"b{number}"))
    async with consuming(bus, inbox) as consumer:
        await soon(lambda: len(bus.acked) == 8)
        assert inbox.handled == ["b0", "b1", "b2", "b3"]
        assert [one.forged for one in inbox.odd] == [True] * 4 and inbox.parked == []
        # The row has all of it, whatever the binding: it can be told later what was tried.
        assert [decode(one.raw) for one in inbox.odd] == [decode(encode(one)) for one in tried]
        await soon(lambda: consumer.condition.kept.forged == 4)
        with pytest.raises(Unwell, match="it refused 4 forged events"):
            await consumer.probe_whole()
        await consumer.probe()


async def test_forged_events_beyond_what_is_kept_are_the_brokers() -> None:
    bus, inbox = Memory(), Scripted(fine)
    inbox.room_for_odd = False
    bus.put(forgeries()[0])
    bus.put(event("b1"))
    async with consuming(bus, inbox):
        await soon(lambda: bus.acked == ["b1"])
    assert [reason for _, reason in bus.dead] == ["It says to be of tests, and is not signed."]


async def test_a_flood_of_forged_events_does_not_tear_apart_what_is_handled_together() -> None:
    class Flooded(Scripted):
        """Its database is away for a while when it has to keep the first of them."""

        def __init__(self) -> None:
            super().__init__(fine)
            self.aside: list[int] = []

        async def put_aside(self, batch: Sequence[Delivery]) -> list[bool]:
            self.aside.append(len(batch))
            if len(self.aside) == 1:
                raise Away("locked")
            return await super().put_aside(batch)

    bus, inbox, false = Memory(), Flooded(), forgeries()[0]
    for number in range(100):
        bus.put(event(f"a{number}"))
        bus.put(false)
    async with consuming(bus, inbox):
        await soon(lambda: len(bus.acked) == 200)
    assert inbox.handled == [f"a{number}" for number in range(100)] and len(inbox.odd) == 100
    assert len(inbox.careful) <= 5 and len(inbox.aside) <= 6


class Later:
    """Keys that come after a while."""

    def __init__(self) -> None:
        self.ring = Ring({})

    def sign(self, event: CloudEvent, speaker: str) -> CloudEvent:
        return self.ring.sign(event, speaker)

    def may_speak(self, speaker: str, source: str) -> bool:
        return self.ring.may_speak(speaker, source)

    def refusal(self, event: CloudEvent) -> str:
        return self.ring.refusal(event)

    def usable(self) -> str:
        return self.ring.usable()


async def test_without_keys_it_takes_nothing_and_says_so() -> None:
    keys, bus, inbox = Later(), Memory(), Scripted(fine)
    bus.put(event("a1"))
    async with consuming(bus, inbox, keys=keys) as consumer:
        with pytest.raises(Unwell, match="no keys"):
            await consumer.probe()
        assert bus.given == {}
        keys.ring = KEYS
        await soon(lambda: bus.acked == ["a1"])
    assert inbox.odd == [] and inbox.handled == ["a1"]
