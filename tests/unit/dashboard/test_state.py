"""What is failing, degraded, unknown: the rules as a table, and that nothing old is ever shown green."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.dashboard import state
from apps.dashboard.frames import clean
from apps.dashboard.state import Changes, Gateway, Health, Reading, Readings, ServiceInfo, Telemetry

NOW = 1_700_000_000.0
COVENANT = ServiceInfo("covenant", "Covenant", 2.0)


@dataclass(frozen=True)
class Status:
    """As apps.health.queries.InstanceStatus."""

    instance: str = "covenant-1"
    state: str = "healthy"
    service: str = "covenant"
    url: str = "http://127.0.0.1:7102"
    enabled: bool = True
    since: float = NOW - 600
    checked_at: float | None = NOW - 1
    latency_ms: float | None = 1.25
    detail: str = ""


@dataclass(frozen=True)
class Red:
    requests: int = 600
    rate: float = 10.0
    error_rate: float = 0.0
    errors: int = 0
    p50_ms: float | None = 2.0
    p95_ms: float | None = 9.0
    p99_ms: float | None = 20.0


@dataclass(frozen=True)
class Breaker:
    state: str = "closed"
    since: float = NOW - 30
    forced: str | None = None
    failure_rate: float | None = None
    retry_at: float | None = None


@dataclass(frozen=True)
class Worker:
    id: str = "w1"
    revision: int = 7
    at: float = NOW - 1
    pid: int = 42
    node: str = "here"
    dropped: int = 0


DOWN = Status(state="unhealthy", detail="connection refused", since=NOW - 60)
SECOND = Status(instance="covenant-2")

TABLE = [
    ("all well", [Status()], Red(), Breaker(), "healthy", ""),
    ("no traffic known", [Status()], None, None, "healthy", ""),
    ("one of one down", [DOWN], Red(), Breaker(), "failing", "covenant-1: connection refused"),
    (
        "one of two down",
        [DOWN, SECOND],
        Red(),
        Breaker(),
        "degraded",
        "1 of 2 instances down, covenant-1: connection refused",
    ),
    (
        "both down",
        [DOWN, replace(DOWN, instance="covenant-2")],
        None,
        None,
        "failing",
        "2 of 2 instances down, covenant-1: connection refused",
    ),
    (
        "down and drained",
        [DOWN, replace(SECOND, enabled=False)],
        None,
        None,
        "failing",
        "covenant-1: connection refused",
    ),
    (
        "breaker open",
        [Status()],
        Red(),
        Breaker("open", failure_rate=0.6),
        "failing",
        "breaker open: 60% of calls fail",
    ),
    (
        "breaker held open",
        [Status()],
        Red(),
        Breaker("open", forced="open"),
        "failing",
        "breaker held open by an operator",
    ),
    ("breaker held closed", [Status()], Red(), Breaker("closed", forced="closed"), "healthy", ""),
    ("half-open", [Status()], Red(), Breaker("half_open"), "degraded", "breaker half-open: trial calls decide"),
    ("many errors", [Status()], Red(error_rate=0.38), Breaker(), "degraded", "38% of requests fail"),
    ("errors at the line", [Status()], Red(error_rate=0.05), Breaker(), "healthy", ""),
    ("errors of few requests", [Status()], Red(requests=9, error_rate=1.0), Breaker(), "healthy", ""),
    ("no instance", [], Red(), Breaker(), "unknown", "no instance is registered"),
    ("every instance drained", [Status(enabled=False)], None, None, "maintenance", "every instance is drained"),
    ("never checked", [Status(state="unknown", checked_at=None)], None, None, "unknown", "not checked yet"),
    ("verdict just young enough", [Status(checked_at=NOW - 8)], None, None, "healthy", ""),
    ("verdict too old", [Status(checked_at=NOW - 9)], None, None, "unknown", "no verdict for 9 s"),
    ("old verdict of failure", [replace(DOWN, checked_at=NOW - 60)], None, None, "unknown", "no verdict for 60 s"),
    (
        "one silent, one well",
        [Status(checked_at=NOW - 30), SECOND],
        None,
        None,
        "degraded",
        "covenant-1: no verdict for 30 s",
    ),
    ("silent but breaker open", [Status(checked_at=NOW - 30)], None, Breaker("open"), "failing", "breaker open"),
]


@pytest.mark.parametrize(
    ("case", "instances", "red", "breaker", "expected", "why"), TABLE, ids=[row[0] for row in TABLE]
)
def test_the_state_of_a_service(
    case: str, instances: list[Any], red: Any, breaker: Any, expected: str, why: str
) -> None:
    judgement = state.judge(COVENANT, instances, red, breaker, "", NOW)
    assert (judgement.state, judgement.why) == (expected, why)


def test_a_failure_passed_on_says_whose_it_is() -> None:
    judgement = state.judge(COVENANT, [Status()], Red(error_rate=0.2), Breaker(), "mint", NOW)
    assert judgement.why == "20% of requests fail because of mint"


def test_without_a_health_check_nothing_is_healthy() -> None:
    judgement = state.judge(replace(COVENANT, interval_s=None), [Status()], Red(), Breaker(), "", NOW)
    assert (judgement.state, judgement.why) == ("unknown", "no health check is set up")


def readings(at: float = NOW, *instances: Any, **parts: Any) -> Readings:
    workers = parts.get("workers", (Worker(), Worker(id="w2")))
    return Readings(
        health=Reading(Health((COVENANT,), instances or (Status(),)), at),
        breakers=Reading(Gateway({"covenant": parts.get("breaker", Breaker())}, workers), at),
        telemetry=Reading(Telemetry({"covenant": Red(), "gateway": parts.get("red", Red())}, {}), at),
        changes=Reading(Changes(revision=7, published_at=parts.get("published_at", NOW - 600)), at),
    )


def test_a_quiet_system_is_healthy_and_says_how_much_of_it_there_is() -> None:
    document = state.build(readings(), {}, NOW)
    assert document["verdict"]["state"] == "healthy"
    assert document["verdict"]["detail"] == "1 service · 1 instance · 2 gateway workers"
    assert document["services"]["covenant"]["red"] == {
        "rate": 10.0, "error_rate": 0.0, "p50_ms": 2.0, "p95_ms": 9.0, "p99_ms": 20.0,
    }  # fmt: skip
    assert not any(source["stale"] for source in document["sources"].values())


def test_failing_says_which_why_and_since_when() -> None:
    verdict = state.build(readings(NOW, DOWN), {}, NOW)["verdict"]
    assert verdict["title"] == "Failing: covenant"
    assert verdict["detail"] == "covenant-1: connection refused"
    assert verdict["since"] == NOW - 60
    assert verdict["services"] == ["covenant"]


@given(st.floats(0, 3600))
def test_a_silent_system_is_never_green(age: float) -> None:
    document = state.build(readings(NOW - age), {}, NOW)
    sources = document["sources"]
    if sources["health"]["stale"]:
        assert document["verdict"]["state"] == "unknown"
        assert document["services"]["covenant"]["state"] == "unknown"
        assert document["services"]["covenant"]["instances"]["covenant-1"]["state"] == "unknown"
    if sources["telemetry"]["stale"]:
        assert "red" not in document["services"]["covenant"]
    if sources["breakers"]["stale"]:
        assert document["services"]["gateway"]["state"] == "unknown"
        assert "breaker" not in document["services"]["covenant"]
    assert (age > 8.05) == (document["verdict"]["state"] != "healthy") or 7.95 < age < 8.05


def test_nothing_read_yet_is_unknown_everywhere() -> None:
    document = state.build(Readings(), {}, NOW)
    assert document["verdict"]["state"] == "unknown"
    assert document["services"]["gateway"]["state"] == "unknown"


@pytest.mark.parametrize(
    ("parts", "expected", "why"),
    [
        ({}, "healthy", ""),
        ({"workers": ()}, "failing", "no worker reports"),
        ({"workers": (Worker(), Worker(id="w2", revision=6))}, "degraded", "1 of 2 workers still serve revision 6"),
        ({"workers": (Worker(revision=6),), "published_at": NOW - 3}, "healthy", ""),
        ({"red": Red(error_rate=0.07)}, "degraded", "7.0% of requests fail"),
    ],
)
def test_the_state_of_the_gateway(parts: dict[str, Any], expected: str, why: str) -> None:
    gateway = state.build(readings(**parts), {}, NOW)["services"]["gateway"]
    assert (gateway["state"], gateway["why"]) == (expected, why)


def test_a_state_keeps_the_moment_it_began() -> None:
    first = state.build(readings(), {}, NOW)
    later = state.build(readings(NOW + 30, Status(checked_at=NOW + 30)), first, NOW + 30)
    assert later["services"]["covenant"]["since"] == first["services"]["covenant"]["since"] == NOW
    assert clean(later) == later, "a null would be taken for a removal by RFC 7396"


def test_an_empty_system_says_what_to_do() -> None:
    empty = replace(readings(), health=Reading(Health(), NOW), breakers=Reading(Gateway({}, (Worker(),)), NOW))
    verdict = state.build(empty, {}, NOW)["verdict"]
    assert verdict["title"] == "Nothing is registered yet"
    assert verdict["state"] == "unknown"
