"""Fetching what a broker lost, from publishers that answer well, badly, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from msgspec.structs import replace

from services.kit.events.cloudevent import CloudEvent, encode
from services.kit.events.gaps import Heard
from services.kit.events.lanes import Key
from services.kit.events.repair import Doubt, Head, Heads, Hole, Page, Published, Repair
from services.kit.events.retry import Away
from services.kit.events.transport.base import Delivery

LAST = 2**63 - 1


class Here:
    """A consumer's knowledge, in memory."""

    def __init__(self, key: str = "k", *numbers: int) -> None:
        self.known: dict[Key, Heard] = {}
        self.given_up: list[Hole] = []
        for number in numbers:
            self.hear(("orders", key), number)

    def hear(self, key: Key, number: int) -> None:
        self.known[key] = self.known.get(key, Heard()).hear(number)

    async def holes(self, most: int) -> list[Hole]:
        return [Hole(key, start, end) for key, heard in self.known.items() for start, end in heard.holes][:most]

    async def heard(self, keys: Sequence[Key]) -> dict[Key, int]:
        return {key: self.known[key].last for key in keys if key in self.known}

    async def give_up(self, hole: Hole) -> None:
        self.given_up.append(hole)

    async def handle(self, deliveries: list[Delivery]) -> None:
        for one in deliveries:
            assert one.event is not None
            self.hear(("orders", one.event.partition_key), one.event.sequence)


class There:
    """A publisher with numbers ``first`` to ``last`` of key k, two an answer."""

    def __init__(self, first: int = 1, last: int = 9) -> None:
        self.first, self.last, self.asked, self.away = first, last, 0, False

    async def get(self, path: str) -> bytes:
        self.asked += 1
        if self.away:
            raise Away("it is away")
        query = {name: values[-1] for name, values in parse_qs(urlsplit(path).query).items()}
        if "/heads" in path:
            return msgspec.json.encode(Heads([Head("k", self.last)], 1000.0))
        start, end = int(query["after"]) + 1, int(query["until"])
        numbers = range(max(start, self.first), min(end, self.last) + 1)
        events = [msgspec.Raw(encode(event(number))) for number in numbers[:2]]
        return msgspec.json.encode(Page(events, len(numbers) <= 2, self.first))


def event(number: int, **changes: Any) -> CloudEvent:
    return replace(CloudEvent(f"e{number}", "t.t.t", "orders", 1.0, {}, partition_key="k", sequence=number), **changes)


def repair(here: Here, get: Any) -> Repair:
    async def find(source: str) -> Published | None:
        return Published(get) if source == "orders" else None

    async def sources() -> list[str]:
        return ["orders", "unknown"]

    return Repair(here, find, sources)


async def test_holes_and_tails_are_fetched_and_nothing_twice() -> None:
    here, there = Here("k", 1, 2, 6), There()
    mender = repair(here, there.get)
    await mender.compare()
    assert await mender.mend(here.handle, idle=True) == 6
    assert here.known["orders", "k"] == Heard(9)
    assert not mender.waiting
    asked = there.asked
    assert await mender.mend(here.handle, idle=True) == 0
    assert there.asked == asked


async def test_a_tail_that_still_comes_is_left_to_the_broker_until_it_stands_still() -> None:
    here, there = Here("k", 1), There()
    mender = repair(here, there.get)
    await mender.compare()
    assert await mender.mend(here.handle, idle=False) == 0
    here.hear(("orders", "k"), 2)
    assert await mender.mend(here.handle, idle=False) == 0
    assert mender.waiting and mender.behind == 7
    assert await mender.mend(here.handle, idle=False) == 7
    assert not mender.waiting


async def test_what_the_publisher_has_no_more_is_given_up_to_the_consumer_to_judge() -> None:
    here, there = Here("k", 8), There(first=4)
    mender = repair(here, there.get)
    await mender.compare()
    assert await mender.mend(here.handle, idle=True) == 5
    assert here.given_up == [Hole(("orders", "k"), 1, 3)]
    assert here.known["orders", "k"].holes == ((1, 3),)


async def test_a_publisher_that_is_away_costs_a_fault_and_nothing_else() -> None:
    here, there = Here("k", 1, 4), There()
    there.away = True
    mender = repair(here, there.get)
    await mender.compare()
    assert await mender.mend(here.handle, idle=True) == 0
    assert mender.fault == "orders: it is away"
    there.away = False
    await mender.compare()
    assert await mender.mend(here.handle, idle=True) == 7
    assert mender.fault == ""


@pytest.mark.parametrize(
    "answer",
    [b"", b"not json", b"[]", b'{"events": 7}', b'{"heads":[{"key":"k","last":1e99}],"at":0}', b"[" * 100_000, b"\xff"],
)
async def test_an_answer_that_is_none_is_a_fault(answer: bytes) -> None:
    async def get(path: str) -> bytes:
        return answer

    here = Here("k", 1, 4)
    mender = repair(here, get)
    await mender.compare()
    assert await mender.mend(here.handle, idle=True) == 0
    assert mender.fault


async def test_other_events_than_those_asked_for_are_not_taken_and_end_the_asking() -> None:
    """Another source's, another key's, a number that was not asked for, what is no event: without end."""
    asked = 0

    async def get(path: str) -> bytes:
        nonlocal asked
        asked += 1
        if "/heads" in path:
            return msgspec.json.encode(Heads([Head("k", LAST)], 1.0))
        odd = [event(2, source="bills"), event(3, partition_key="j"), event(99), event(1)]
        raw = [msgspec.Raw(encode(one)) for one in odd] + [msgspec.Raw(b'{"no": "event"}')]
        return msgspec.json.encode(Page(raw, False, 1))

    here = Here("k", 1, 4)
    taken: list[Delivery] = []

    async def handle(deliveries: list[Delivery]) -> None:
        taken.extend(deliveries)

    await repair(here, get).mend(handle, idle=True)
    assert taken == []
    assert asked < 5


async def test_an_endless_publisher_gets_a_bounded_turn() -> None:
    async def get(path: str) -> bytes:
        after = int(parse_qs(urlsplit(path).query)["after"][0])
        return msgspec.json.encode(Page([msgspec.Raw(encode(event(after + 1)))], False, 1))

    here = Here("k", 1, 1_000_000)
    assert await repair(here, get).mend(here.handle, idle=True) == 50


def test_doubt_is_over_when_a_late_enough_comparison_found_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("services.kit.events.repair.time.monotonic", lambda: now)
    doubt = Doubt()
    doubt.begin(3)
    assert not doubt.met(3) and not doubt.open
    assert doubt.met(4) and doubt.open and doubt.unsure
    doubt.compared(101.0)
    doubt.settled()
    assert doubt.open, "what the bus took last may not have been noted yet"
    doubt.compared(105.0)
    assert doubt.open and not doubt.unsure
    doubt.settled()
    assert not doubt.open


def test_a_number_beyond_belief_makes_no_hole() -> None:
    assert Heard(5).hear(LAST) == Heard(5)
    assert Heard(5).hear(8).missing == 2
