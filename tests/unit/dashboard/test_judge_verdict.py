"""The verdict: never green without every source, always the reason, and Mission Control's own parts among it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.dashboard import state
from apps.dashboard.frames import clean
from apps.dashboard.judge.freshness import CHANGES, DATABASE
from apps.dashboard.judge.own import AHEAD, SILENT
from apps.dashboard.judge.readings import Changes, Edge, Plane, Process, Reading, Readings, Registry, Traffic
from tests.unit.dashboard.evidence import COVENANT, DOWN, NOW, PARTS, SEEN, Red, Status, Worker, readings, running

GREEN = {"healthy", "maintenance"}


def verdict(made: Readings, now: float = NOW) -> dict[str, Any]:
    found: dict[str, Any] = state.build(made, {}, now)["verdict"]
    return found


def test_a_quiet_system_is_healthy_and_says_how_much_of_it_there_is() -> None:
    document = state.build(readings(), {}, NOW)
    assert document["verdict"]["state"] == "healthy"
    assert document["verdict"]["detail"] == "1 service · 1 instance · 2 gateway workers"
    assert document["verdict"]["affected"] == []
    assert not any("stale" in source for source in document["sources"].values())
    assert {part["word"] for part in document["own"].values()} == {"running"}


def test_failing_says_which_why_and_since_when() -> None:
    found = verdict(readings(DOWN))
    assert found["title"] == "Failing: covenant"
    assert found["detail"] == "covenant-1: connection refused"
    assert found["since"] == NOW - 60
    assert found["services"] == ["covenant"]


SOURCES = ("registry", "plane", "signs", "traffic", "changes", "bus", "processes")
AGES = st.one_of(st.floats(-5, 5), st.floats(-1e9, 1e9), st.just(0.0))
STATES = st.sampled_from(["RUNNING", "STARTING", "STOPPED", "EXITED", "FATAL", "BACKOFF", "STOPPING", "UNKNOWN"])


@st.composite
def anything(draw: Any) -> Readings:
    """Readings of any age, with anything missing, over a system where all that was read is well."""
    made = {}
    for name in SOURCES:
        reading = getattr(readings(), name)
        if draw(st.booleans()):
            reading = replace(reading, at=NOW - draw(AGES), error=draw(st.sampled_from(["", "it does not answer"])))
        made[name] = reading
    if draw(st.booleans()):
        empty = draw(st.sampled_from(SOURCES[:-1]))
        made[empty] = getattr(Readings(), empty)
    if draw(st.booleans()):
        at = NOW - draw(AGES)
        traffic = replace(made["traffic"].value, reported_at=at)
        made["traffic"] = replace(made["traffic"], value=traffic)
    if draw(st.booleans()):
        signs = {
            name: NOW - draw(AGES) for name in draw(st.sets(st.sampled_from(["worker", "beat", "relay", "monitor"])))
        }
        made["signs"] = replace(made["signs"], value=signs)
    if draw(st.booleans()):
        workers = tuple(Worker(at=NOW - draw(AGES)) for _ in range(draw(st.integers(0, 2))))
        made["plane"] = replace(made["plane"], value=replace(made["plane"].value, workers=workers))
    if draw(st.booleans()):
        checked = draw(st.one_of(st.none(), AGES.map(lambda age: NOW - age)))
        registry = replace(made["registry"].value, instances=(Status(checked_at=checked),))
        made["registry"] = replace(made["registry"], value=registry)
    if draw(st.booleans()):
        states = {name: draw(STATES) for name in draw(st.sets(st.sampled_from(PARTS)))}
        made["processes"] = replace(made["processes"], value=running(**states))
    if draw(st.booleans()):
        del made["processes"]
    return Readings(**made)


@given(anything())
def test_with_any_source_silent_nothing_is_green_and_nobody_is_called_unaffected(made: Readings) -> None:
    document = state.build(made, {}, NOW)
    stale = {name for name, source in document["sources"].items() if "stale" in source}
    covenant = document["services"].get("covenant", {"state": "unknown", "instances": {}})
    if stale:
        assert document["verdict"]["state"] not in GREEN, stale
        assert "healthy" not in document["verdict"]["title"]
    if stale & {"database", "monitor", "verdicts"}:
        assert covenant["state"] not in GREEN
        assert all(one["state"] != "healthy" for one in covenant["instances"].values())
    if stale & {"telemetry", "traffic"}:
        assert "affected" not in document["verdict"]
        assert "red" not in covenant and covenant["state"] not in GREEN
        assert document["services"]["gateway"]["state"] not in GREEN
    if stale & {"workers"}:
        assert document["services"]["gateway"]["state"] not in GREEN
    if stale & {"breakers"}:
        assert "breaker" not in covenant and covenant["state"] not in GREEN
    # Every reading that is older than any may be, missing, or of a clock far ahead makes some source stale.
    for name, source in {
        "registry": "database",
        "plane": "breakers",
        "traffic": "telemetry",
        "changes": "events",
    }.items():
        if not -AHEAD <= NOW - getattr(made, name).at <= max(SILENT["clickhouse"], DATABASE, CHANGES):
            assert source in stale
    assert clean(document) == document, "a null would be taken for a removal by RFC 7396"


def test_nothing_read_yet_is_unknown_everywhere() -> None:
    document = state.build(Readings(), {}, NOW)
    assert document["verdict"]["state"] == "unknown"
    assert document["services"]["gateway"]["state"] == "unknown"


@pytest.mark.parametrize(
    ("process", "expected", "title"),
    [
        ("worker", "unknown", "Not known: the monitor is stopped"),
        ("beat", "degraded", "Degraded: the scheduler is stopped"),
        ("clickhouse", "unknown", "Not known: ClickHouse is stopped"),
        ("collector", "unknown", "Not known: the collector is stopped"),
        ("redis", "unknown", "Not known: Redis is stopped"),
        ("relay", "degraded", "Degraded: the relay is stopped"),
        ("gateway", "failing", "Failing: gateway"),
    ],
)
def test_the_verdict_names_the_part_of_mission_control_that_is_stopped(process: str, expected: str, title: str) -> None:
    found = verdict(readings(processes=running(**{process: "STOPPED"})))
    assert (found["state"], found["title"]) == (expected, title)


CHECKED_LONG_AGO = Registry((COVENANT,), (Status(checked_at=NOW - 40),))
"""Nothing was checked of late: the monitor would else be heard by its verdicts."""


@pytest.mark.parametrize(
    ("more", "title"),
    [
        (
            {"registry": CHECKED_LONG_AGO, "signs": {"worker": NOW - 40, "beat": NOW - 1, "relay": NOW - 1}},
            "Not known: the monitor runs but has been silent for 40 s",
        ),
        ({"traffic": Traffic(reported_at=NOW - 40)}, "Not known: the collector runs but has been silent for 40 s"),
        (
            {"plane": Reading(Plane(), NOW - 40, "Redis does not answer"), "signs": Reading({}, NOW - 40)},
            "Not known: Redis has not answered for 40 s",
        ),
        (
            {"registry": Reading(Registry(), NOW - 40, "the database does not answer")},
            "Not known: the database does not answer",
        ),
    ],
)
def test_a_part_that_hangs_is_told_from_one_that_is_stopped(more: Any, title: str) -> None:
    found = verdict(readings(**more))
    assert (found["state"], found["title"]) == ("unknown", title)


def test_a_part_is_starting_until_its_first_sign_and_hangs_when_it_falls_silent_after_it() -> None:
    begun = running() | {"relay": Process("relay", "RUNNING", NOW - 15, pid=100)}

    def title(seen_at: float) -> str:
        found = verdict(readings(processes=begun, signs={"worker": NOW - 1, "beat": NOW - 1, "relay": seen_at}))
        return str(found["title"])

    assert title(NOW - 40) == "Degraded: the relay is starting", "that was the process before"
    assert title(NOW - 12) == "Not known: the relay runs but has been silent for 12 s"


def test_a_source_that_failed_when_asked_again_counts_for_half_as_long() -> None:
    def after(seconds: float, error: str) -> str:
        seen = replace(readings().traffic, at=NOW - seconds, error=error)
        return str(verdict(replace(readings(), traffic=seen))["state"])

    assert after(10, "") == "healthy", "a slow answer is on its way"
    assert after(3, "ClickHouse does not answer") == "healthy", "one failure is no outage"
    assert after(7, "ClickHouse does not answer") == "unknown"


def test_without_a_supervisor_signs_of_life_alone_decide() -> None:
    alone = replace(readings(), processes=None)
    assert verdict(alone)["state"] == "healthy"
    silent = replace(readings(Status(checked_at=NOW - 40), signs={"relay": NOW - 1}), processes=None)
    assert verdict(silent)["title"] == "Not known: the monitor has given no sign of life"


def test_a_crash_loop_is_seen_while_the_process_happens_to_run() -> None:
    looping = running() | {"relay": Process("relay", "RUNNING", NOW - 4, starts=5)}
    document = state.build(readings(processes=looping), {}, NOW)
    assert document["own"]["relay"]["word"] == "crash-looping"
    assert document["verdict"]["title"] == "Degraded: the relay crashes again and again: started 5 times in ten minutes"


def test_a_relay_that_is_behind_or_stopped_says_what_waits() -> None:
    waiting = Changes(revision=7, published_at=NOW - 600, waiting=12, oldest_at=NOW - 40)
    assert verdict(readings(changes=waiting))["title"] == (
        "Degraded: the relay is behind: 12 events waiting, the oldest for 40 s"
    )
    stopped = verdict(readings(changes=waiting, processes=running(relay="STOPPED")))
    assert stopped["title"] == "Degraded: the relay is stopped, 12 events waiting, the oldest for 40 s"


def test_what_is_known_to_fail_is_red_although_something_else_is_not_known() -> None:
    found = verdict(readings(DOWN, processes=running(clickhouse="STOPPED")))
    assert (found["state"], found["title"]) == ("failing", "Failing: covenant")
    assert "ClickHouse is stopped" in found["detail"]
    assert "affected" not in found


def test_what_is_not_known_is_said_reason_by_reason() -> None:
    found = verdict(readings(processes=running(clickhouse="STOPPED")))
    assert found["blind"] == ["ClickHouse is stopped; not known: rates, errors and who is affected."]


def test_a_service_without_instances_is_setting_up_and_turns_nothing_grey() -> None:
    setting_up = replace(COVENANT, name="orders", title="")
    document = state.build(readings(services=(COVENANT, setting_up)), {}, NOW)
    assert document["services"]["orders"]["state"] == "setup"
    assert document["verdict"]["state"] == "healthy"
    assert "orders setting up" in document["verdict"]["detail"]


def test_a_service_that_only_reports_is_shown_by_its_own_word_and_counts_for_nothing() -> None:
    seen = Traffic(
        reported_at=NOW, total=SEEN, own={"billing": Red()}, reporters={"billing", "idle", "gateway", "control"}
    )
    document = state.build(readings(traffic=seen), {}, NOW)
    assert document["services"]["billing"]["state"] == "reports"
    assert document["services"]["billing"]["own"]["rate"] == 10.0
    assert "red" not in document["services"]["billing"]
    assert document["services"]["idle"]["own"] == {"rate": 0.0}, "it said something in the last hour"
    assert "control" not in document["services"], "Mission Control's own parts have their own place"
    assert document["verdict"]["state"] == "healthy"


def test_the_gateways_own_records_are_the_truth_and_a_report_stands_beside_them() -> None:
    bad = Edge(64, 23, rate=1.0)
    seen = Traffic(NOW, bad, {"covenant": bad}, {"ledger": bad}, own={"covenant": Red()})
    document = state.build(readings(traffic=seen), {}, NOW)
    covenant = document["services"]["covenant"]
    assert covenant["state"] == "failing"
    assert covenant["red"]["error_rate"] == pytest.approx(0.3594)
    assert covenant["own"]["error_rate"] == 0
    assert covenant["routes"]["ledger"]["errors"] == 23
    assert document["verdict"]["title"] == "Failing: covenant"


def test_who_is_affected_says_of_what_and_by_which_limit() -> None:
    rows = [
        {"service": "covenant", "route": "ledger", "consumer": "demo", "failed": 12},
        {"service": "covenant", "route": "ledger", "consumer": "auditor", "limited": 80},
    ]
    found = verdict(readings(traffic=Traffic(reported_at=NOW, affected=rows)))["affected"]
    assert found[0] == {"service": "covenant", "route": "ledger", "path": "/covenant", "consumer": "demo", "failed": 12}
    assert found[1]["policy"] == "standard"


def test_a_state_keeps_the_moment_it_began() -> None:
    first = state.build(readings(), {}, NOW)
    later = state.build(readings(at=NOW + 3), first, NOW + 3)
    assert later["services"]["covenant"]["since"] == first["services"]["covenant"]["since"] == NOW


def test_an_empty_system_says_what_to_do() -> None:
    found = verdict(readings(services=(), registry=Reading(Registry(), NOW), traffic=Traffic(reported_at=NOW)))
    assert (found["title"], found["state"]) == ("Nothing is registered yet", "unknown")
