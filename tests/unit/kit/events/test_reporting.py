"""What a consumer says of itself on the bus, and whose words it takes for commands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from services.kit.events.cloudevent import CloudEvent, EventError, encode
from services.kit.events.consumer import Consumer
from services.kit.events.reporting import (
    DISCARD,
    PARKED,
    REDRIVE,
    REPLACE,
    STARTED,
    Command,
    Report,
    Reporter,
    read_command,
)
from services.kit.events.signing import Key, Ring, sign
from services.kit.events.transport.base import Outgoing, Waits
from tests.signed import KEYS, SECRETS
from tests.unit.kit.events.memory import Memory, Scripted
from tests.unit.kit.events.test_consumer import soon

CONTROL_KEY = Key.of(*SECRETS[1])
ONE = {"source": "tests", "event_id": "a1"}


class Told:
    """The rows: what they have to say, what was heard, and what they were told to do."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.commands: list[Command] = []

    def parks(self, name: str) -> None:
        self.reports.append(Report(PARKED, name, 1.0, {"event_id": name}, len(self.reports), 1))

    async def untold(self, most: int) -> list[Report]:
        return self.reports[:most]

    async def told(self, reports: Sequence[Report]) -> None:
        self.reports = [one for one in self.reports if one not in reports]

    async def obey(self, command: Command) -> int:
        self.commands.append(command)
        return len(command.events)


def command(type: str = REDRIVE, source: str = "mission-control", **data: Any) -> CloudEvent:
    return CloudEvent("1", type, source, 1.0, {"group": "g", "events": [ONE]} | data)


def published(transport: Memory) -> list[CloudEvent]:
    return [row.event for rows in transport.rows.values() for row in rows if row.event is not None]


def test_a_command_is_mission_controls_and_for_the_group_it_names() -> None:
    assert read_command(command(), "g") == Command(REDRIVE, (("tests", "a1"),))
    assert read_command(command(), "other") is None
    assert read_command(command(source="covenant"), "g") is None
    assert read_command(command(type=PARKED), "g") is None
    edited = CloudEvent("2", "t.thing.done", "tests", 1.0, {})
    assert read_command(command(REPLACE, body=encode(edited).decode()), "g") == Command(
        REPLACE, (("tests", "a1"),), edited
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"events": None},
        {"events": "a1"},
        {"events": [1]},
        {"events": [{"source": "tests"}]},
        {"events": [{"source": 1, "event_id": "a1"}]},
        {"events": [ONE] * 501},
    ],
)
def test_a_command_that_is_not_clear_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        read_command(command(DISCARD, **odd), "g")


@pytest.mark.parametrize("odd", [{}, {"body": 1}, {"body": "{"}, {"body": "{}"}, {"body": "{}", "events": [ONE, ONE]}])
def test_a_replacement_that_is_no_event_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        read_command(command(REPLACE, **odd), "g")


async def test_reports_wait_for_a_bus_that_is_away_and_are_signed() -> None:
    transport, rows, stopping = Memory(), Told(), asyncio.Event()
    reporter = Reporter(transport, rows, Ring.of([("g", "g" * 48)]), "g")
    rows.parks("a1")
    transport.away = True
    task = asyncio.create_task(reporter.run(stopping, {"group": "g"}))
    await asyncio.sleep(0)
    assert published(transport) == []
    transport.away = False
    await soon(lambda: not rows.reports)
    rows.parks("a2")
    reporter.bell.set()
    await soon(lambda: not rows.reports)
    stopping.set()
    await task
    said = published(transport)
    assert [one.type for one in said] == [STARTED, PARKED, PARKED]
    assert {(one.source, one.partition_key) for one in said} == {("g", "g")}
    assert all(Ring.of([("g", "g" * 48)]).refusal(one) == "" for one in said)


async def test_reports_wait_for_the_one_of_several_brokers_that_is_away() -> None:
    """A bus of several answers for each event that its broker is away: that is no refusal, after which nobody asks."""

    class Several(Memory):
        waits = 1

        async def publish(self, batch: Sequence[Outgoing]) -> list[Any]:
            if self.waits and batch[0].event.type == PARKED:
                self.waits -= 1
                return [Waits("redis is away", 0.1) for _ in batch]
            return await super().publish(batch)

    transport, rows, stopping = Several(), Told(), asyncio.Event()
    rows.parks("a1")
    task = asyncio.create_task(Reporter(transport, rows, Ring.of([("g", "g" * 48)]), "g").run(stopping, {}))
    await soon(lambda: not rows.reports)
    stopping.set()
    await task
    assert [one.type for one in published(transport)] == [STARTED, PARKED]


async def test_without_a_key_nothing_is_said_and_rows_wait() -> None:
    transport, rows, stopping = Memory(), Told(), asyncio.Event()
    rows.parks("a1")
    task = asyncio.create_task(Reporter(transport, rows, KEYS, "unknown").run(stopping, {}))
    await asyncio.sleep(0.01)
    stopping.set()
    await task
    assert len(rows.reports) == 1 and published(transport) == []


async def consume(*events: CloudEvent, patterns: Sequence[str] = ("t.#",)) -> tuple[Told, Scripted]:
    """What a consumer makes of ``events``."""
    transport, rows = Memory(), Told()

    async def fine(event: CloudEvent) -> None:
        return None

    inbox = Scripted(fine)
    consumer = Consumer(transport, inbox, patterns, keys=KEYS, group="g", member="m", rows=rows)
    for event in events:
        transport.put(event)
    await consumer.start()
    await soon(lambda: len(transport.acked) == len(events))
    await consumer.stop()
    return rows, inbox


async def test_a_signed_command_is_obeyed_between_events_and_its_handler_does_not_see_it() -> None:
    first, last = (
        sign(CloudEvent(name, "t.thing.done", "tests", 1.0, {}, partition_key="a"), Key.of(*SECRETS[0]))
        for name in ("e1", "e2")
    )
    rows, inbox = await consume(first, sign(command(), CONTROL_KEY), last)
    assert rows.commands == [Command(REDRIVE, (("tests", "a1"),))] and inbox.handled == ["e1", "e2"]


async def test_a_forged_command_is_put_aside_and_not_obeyed() -> None:
    rows, inbox = await consume(command(), sign(command(), Key.of(*SECRETS[0])))
    assert rows.commands == [] and [one.forged for one in inbox.odd] == [True, True]


async def test_an_unclear_command_stops_nothing() -> None:
    rows, inbox = await consume(sign(command(events="all"), CONTROL_KEY), sign(command(), CONTROL_KEY))
    assert len(rows.commands) == 1 and inbox.odd == []


async def test_who_asks_for_everything_gets_commands_as_events_too() -> None:
    rows, inbox = await consume(sign(command(group="other"), CONTROL_KEY), patterns=["#"])
    assert rows.commands == [] and inbox.handled == ["1"]
