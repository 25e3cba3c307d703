"""Projections: each event counts once, a rebuild goes on beside what people see, and the two change places."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from apps.events import projections, sequencer, upcast
from apps.events.actions import publish, publish_all
from apps.events.models import Build, BuildRow
from apps.events.projections import BUILDING, LIVE, NotReady, Projection, advance
from apps.events.projector import Projector
from apps.events.storing import Draft
from services.kit.events.cloudevent import CloudEvent
from tests.waiting import patient

pytestmark = pytest.mark.django_db

TYPE = "test.thing.counted"


def count(row: Any, event: CloudEvent) -> Any:
    total = (row or 0) + event.data["n"]
    return total or None


TOTALS = Projection("totals", keys=lambda event: [event.subject, "all", "all"], apply=count, types=("test.#",))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Projection]]:
    found: dict[str, Projection] = {}
    monkeypatch.setattr(projections, "REGISTERED", found)
    monkeypatch.setattr("apps.events.projector.REGISTERED", found)
    yield found


def happen(*numbers: int, subject: str = "a") -> None:
    publish_all([Draft(TYPE, {"n": n}, subject=subject) for n in numbers])
    sequencer.number()


def seen(projection: Projection = TOTALS) -> dict[str, Any]:
    return dict(projections.rows(projection.name).values_list("key", "state"))


def follow(projection: Projection = TOTALS, role: str = LIVE, limit: int = 500) -> int:
    batches = 0
    while advance(projection, role, limit):
        batches += 1
    return batches


def test_rows_are_folded_in_batches_and_each_event_counts_once() -> None:
    happen(1, 2, 3)
    happen(10, subject="b")
    publish("other.thing.done", {"n": 100})
    sequencer.number()
    assert follow(limit=2) > 1
    assert seen() == {"a": 6, "b": 10, "all": 16}
    assert follow() == 0
    happen(-10, subject="b")
    follow()
    assert seen() == {"a": 6, "all": 6}, "None is no row"


def test_what_fails_takes_neither_rows_nor_position_and_goes_on_when_mended() -> None:
    happen(1)
    follow()

    def bad(row: Any, event: CloudEvent) -> Any:
        return count(row, event) if event.data["n"] < 9 else 1 / 0

    happen(2, 9, 3)
    with pytest.raises(ZeroDivisionError):
        advance(replace(TOTALS, apply=bad))
    assert (seen(), Build.objects.get().position) == ({"a": 1, "all": 1}, 1)
    follow()
    assert seen() == {"a": 15, "all": 15}


def test_events_come_in_the_words_of_their_newest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = upcast.Upcasters()
    steps.step(TYPE, 1)(lambda data: {"n": data["n"] * 2})
    monkeypatch.setattr(projections, "UPCASTERS", steps)
    happen(1, 2)
    publish(TYPE, {"n": 10}, subject="a", stream="s")
    publish_all([Draft(TYPE, {"n": 100}, subject="a", schema_version=2)])
    sequencer.number()
    follow()
    assert seen()["a"] == 126


def test_a_rebuild_goes_on_beside_what_people_see_and_takes_its_place() -> None:
    happen(1, 2)
    follow()
    squares = replace(TOTALS, apply=lambda row, event: (row or 0) + event.data["n"] ** 2)
    projections.rebuild("totals")
    with pytest.raises(NotReady, match="under way"):
        projections.rebuild("totals")
    advance(squares, BUILDING, 1)
    assert [(one.role, one.position, one.target, one.behind) for one in projections.progress()] == [
        (LIVE, 2, 2, 0),
        (BUILDING, 1, 2, 1),
    ]
    assert seen() == {"a": 3, "all": 3}, "nobody sees the new one yet"
    happen(3)
    follow(squares, BUILDING)
    found = projections.compare(squares)
    assert (found.position, found.live, found.building, found.differing, found.keys) == (3, 2, 2, 2, ["a", "all"])
    projections.swap(squares)
    assert seen()["a"] == 14
    assert [(one.generation, one.role) for one in projections.progress()] == [(2, LIVE)]
    assert not BuildRow.objects.exclude(build__role=LIVE).exists()
    assert not Build.objects.exclude(role=LIVE).exists()


def test_a_comparison_of_equal_builds_finds_nothing_and_names_what_is_missing_or_too_much() -> None:
    happen(1, 2)
    happen(5, subject="b")
    follow()
    projections.rebuild("totals")
    follow(role=BUILDING)
    assert projections.compare(TOTALS).differing == 0
    BuildRow.objects.filter(build__role=LIVE, key="a").delete()
    BuildRow.objects.filter(build__role=BUILDING, key="b").delete()
    found = projections.compare(TOTALS)
    assert (found.differing, sorted(found.keys)) == (2, ["a", "b"])


def test_a_build_that_is_far_behind_is_not_swapped_and_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "CLOSE", 2)
    happen(1, 2, 3)
    follow()
    with pytest.raises(NotReady, match="No new build"):
        projections.swap(TOTALS)
    projections.rebuild("totals")
    for act in (projections.compare, projections.swap):
        with pytest.raises(NotReady, match="3 events behind"):
            act(TOTALS)
    projections.discard("totals")
    assert [(one.generation, one.role) for one in projections.progress()] == [(1, LIVE)]
    projections.rebuild("totals")
    assert Build.objects.get(role=BUILDING).generation == 2
    advance(TOTALS, BUILDING, 1)
    projections.swap(TOTALS)
    assert seen() == {"a": 6, "all": 6}, "what was left is caught up on the way"


def test_a_live_build_that_stood_still_is_replaced_by_one_that_is_further() -> None:
    happen(1)
    follow()
    projections.rebuild("totals")
    happen(2)
    follow(role=BUILDING)
    projections.swap(TOTALS)
    assert seen()["a"] == 3


def test_a_name_belongs_to_one_projection() -> None:
    projections.register(TOTALS)
    projections.register(TOTALS)
    with pytest.raises(ValueError, match="already"):
        projections.register(replace(TOTALS, types=("#",)))


@pytest.mark.django_db(transaction=True)
async def test_the_relay_process_keeps_projections_up_and_a_broken_one_costs_no_other(
    registered: dict[str, Projection], caplog: pytest.LogCaptureFixture
) -> None:
    projections.register(replace(TOTALS, name="broken", apply=lambda row, event: 1 / 0))
    projections.register(TOTALS)
    projector = Projector()
    running = asyncio.create_task(projector.run())
    try:
        await sync_to_async(happen)(1, 2)
        projector.bell.set()
        async with asyncio.timeout(patient(10)):
            while await sync_to_async(seen)() != {"a": 3, "all": 3}:  # noqa: ASYNC110 - a row tells nobody
                await asyncio.sleep(0.02)
            while not any(one.fault for one in await sync_to_async(projections.progress)()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        projector.stop()
        await running
    told = {one.projection: (one.behind, one.fault) for one in await sync_to_async(projections.progress)()}
    assert told == {"totals": (0, ""), "broken": (2, "ZeroDivisionError: division by zero")}
    assert sum("broken" in record.message for record in caplog.records) == 1, "it is not tried again at once"
