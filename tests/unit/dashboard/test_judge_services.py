"""What is failing, degraded, unknown, setting up: the rules of one service and of its traffic, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apps.dashboard import state
from apps.dashboard.judge import services, traffic
from apps.dashboard.judge.readings import (
    HEALTHY,
    Caller,
    Changes,
    Edge,
    Judgement,
    Recent,
    Refusal,
    RouteInfo,
    Traffic,
)
from apps.dashboard.judge.services import Blind
from apps.lib.messages import Ejected
from tests.unit.dashboard.evidence import (
    COVENANT,
    DOWN,
    LEDGER,
    NOW,
    SECOND,
    SEEN,
    Breaker,
    Red,
    Status,
    Worker,
    readings,
)

WELL = Judgement(HEALTHY)
BAD = Judgement("failing", "36% of 64 requests to /covenant fail")
WORSE = Judgement("degraded", "8.0% of 600 requests fail")

TABLE: list[tuple[str, list[Any], Judgement, Any, str, str]] = [
    ("all well", [Status()], WELL, Breaker(), "healthy", ""),
    ("no breaker known yet", [Status()], WELL, None, "healthy", ""),
    ("one of one down", [DOWN], WELL, Breaker(), "failing", "covenant-1: connection refused"),
    (
        "one of two down",
        [DOWN, SECOND],
        WELL,
        Breaker(),
        "degraded",
        "1 of 2 instances down, covenant-1: connection refused",
    ),
    (
        "both down",
        [DOWN, replace(DOWN, instance="covenant-2")],
        WELL,
        None,
        "failing",
        "2 of 2 instances down, covenant-1: connection refused",
    ),
    (
        "down and drained",
        [DOWN, replace(SECOND, enabled=False)],
        WELL,
        None,
        "failing",
        "covenant-1: connection refused",
    ),
    (
        "on its way back",
        [replace(DOWN, detail="answered 200", passes=1)],
        WELL,
        None,
        "failing",
        "covenant-1: recovering, 1 of 2 checks passed",
    ),
    ("breaker open", [Status()], WELL, Breaker("open", failure_rate=0.6), "failing", "breaker open: 60% of calls fail"),
    (
        "breaker held open",
        [Status()],
        WELL,
        Breaker("open", forced="open"),
        "failing",
        "breaker held open by an operator",
    ),
    ("breaker held closed", [Status()], WELL, Breaker("closed", forced="closed"), "healthy", ""),
    ("half-open", [Status()], WELL, Breaker("half_open"), "degraded", "breaker half-open: trial calls decide"),
    ("clients meet failures", [Status()], BAD, Breaker(), "failing", BAD.why),
    ("clients meet some failures", [Status()], WORSE, Breaker(), "degraded", WORSE.why),
    ("no instance", [], WELL, None, "setup", "setting up: no instance is registered"),
    ("no instance, and clients come", [], BAD, None, "failing", f"{BAD.why}; setting up: no instance is registered"),
    ("every instance drained", [Status(enabled=False)], WELL, None, "maintenance", "every instance is drained"),
    ("never checked", [Status(state="unknown", checked_at=None)], WELL, None, "unknown", "not checked yet"),
    ("verdict just young enough", [Status(checked_at=NOW - 8)], WELL, None, "healthy", ""),
    ("verdict too old", [Status(checked_at=NOW - 9)], WELL, None, "unknown", "no verdict for 9 s"),
    ("verdict of tomorrow", [Status(checked_at=NOW + 3600)], WELL, None, "unknown", "no verdict for 0 s"),
    ("old verdict of failure", [replace(DOWN, checked_at=NOW - 60)], WELL, None, "unknown", "no verdict for 60 s"),
    ("old verdict, but clients meet failures", [Status(checked_at=NOW - 60)], BAD, None, "failing", BAD.why),
    (
        "one silent, one well",
        [Status(checked_at=NOW - 30), SECOND],
        WELL,
        None,
        "degraded",
        "covenant-1: no verdict for 30 s",
    ),
    ("silent but breaker open", [Status(checked_at=NOW - 30)], WELL, Breaker("open"), "failing", "breaker open"),
]


@pytest.mark.parametrize(
    ("case", "instances", "met", "breaker", "expected", "why"), TABLE, ids=[row[0] for row in TABLE]
)
def test_the_state_of_a_service(
    case: str, instances: list[Any], met: Judgement, breaker: Any, expected: str, why: str
) -> None:
    judgement = services.judge(COVENANT, instances, met, Red(), breaker, NOW)
    assert (judgement.state, judgement.why) == (expected, why)


def test_an_instance_that_the_gateway_ejected_is_told_although_its_checks_pass() -> None:
    out = (Ejected("covenant/covenant-2", NOW - 9, NOW + 1, "5 attempts in a row failed."),)
    judgement = services.judge(COVENANT, [Status(), SECOND], WELL, None, Breaker(ejected=out), NOW)
    assert judgement == Judgement("degraded", "covenant-2 ejected: 5 attempts in a row failed.", NOW - 9)
    document = state.build(readings(Status(), SECOND, breaker=Breaker(ejected=out)), {}, NOW)
    instances = document["services"]["covenant"]["instances"]
    assert [one["state"] for one in instances.values()] == ["healthy", "ejected"]
    panic = services.judge(COVENANT, [Status(), SECOND], WELL, None, Breaker(panic=True), NOW)
    assert panic.why == "too few instances look fit, so all of them are tried"


@pytest.mark.parametrize(
    ("blind", "why"),
    [
        (Blind(verdicts="the monitor is stopped"), "the monitor is stopped"),
        (Blind(traffic="ClickHouse is stopped"), "answers its checks, errors not known: ClickHouse is stopped"),
        (Blind(breakers="Redis is stopped"), "answers its checks, breaker not known: Redis is stopped"),
    ],
)
def test_a_service_is_not_called_healthy_without_all_of_the_evidence(blind: Blind, why: str) -> None:
    judgement = services.judge(COVENANT, [Status()], WELL, None, Breaker(), NOW, blind)
    assert (judgement.state, judgement.why) == ("unknown", why)


def test_without_a_health_check_nothing_is_healthy() -> None:
    judgement = services.judge(replace(COVENANT, interval_s=None), [Status()], WELL, Red(), Breaker(), NOW)
    assert (judgement.state, judgement.why) == ("unknown", "no health check is set up")


def test_what_a_service_says_of_itself_counts_where_it_is_bad_and_is_named_as_its_word() -> None:
    judgement = services.judge(COVENANT, [Status()], WELL, Red(errors=120), Breaker(), NOW)
    assert (judgement.state, judgement.why) == ("degraded", "by its own report 20% of its requests fail")
    assert services.judge_reporter(Red(errors=120)) == judgement
    assert services.judge_reporter(Red()).state == "reports"


def test_a_check_that_begins_to_fail_says_how_far_it_is() -> None:
    said = services.instance_words(Status(failures=1, detail="timed out"))
    assert said == "1 of 2 checks failed: timed out"


# -- what clients meet --------------------------------------------------------------------------


def met(edge: Edge | None = None, **others: Any) -> Judgement:
    """The judgement of covenant's traffic, on its one route and as a whole."""
    route: RouteInfo = others.pop("route", LEDGER)
    seen = edge or SEEN
    whole = replace(others.pop("whole", seen), limited=1, refused=1)
    found = Traffic(services={"covenant": whole}, routes={"ledger": seen}, **others)
    return traffic.judge("covenant", found, {"ledger": route}, {"auditor": "auditors"})


ERRORS = [
    ("none", Edge(600), LEDGER, "healthy", ""),
    ("just below", Edge(100, 4), LEDGER, "healthy", ""),
    ("at the line", Edge(100, 5), LEDGER, "degraded", "5.0% of 100 requests to /covenant fail"),
    ("a bad deploy", Edge(64, 23), LEDGER, "failing", "36% of 64 requests to /covenant fail"),
    ("two of three are no share", Edge(3, 2), LEDGER, "healthy", ""),
    ("two failures are no trend", Edge(12, 2), LEDGER, "healthy", ""),
    ("a route that may fail more", Edge(64, 23), replace(LEDGER, degraded_share=0.5, failing_share=0.9), "healthy", ""),
    (
        "a route that may not fail",
        Edge(1000, 11),
        replace(LEDGER, degraded_share=0.01, failing_share=0.01),
        "failing",
        "1.1% of 1,000 requests to /covenant fail",
    ),
]


@pytest.mark.parametrize(("case", "edge", "route", "expected", "why"), ERRORS, ids=[row[0] for row in ERRORS])
def test_the_share_of_failures_is_judged_by_the_routes_own_thresholds(
    case: str, edge: Edge, route: RouteInfo, expected: str, why: str
) -> None:
    judgement = met(edge, route=route, whole=SEEN)
    assert (judgement.state, judgement.why) == (expected, why)


@pytest.mark.parametrize(
    ("minute", "recent", "is_over"),
    [
        (Edge(60, 60), Edge(20, 20), False),
        (Edge(60, 60), Edge(), True),
        (Edge(60, 40), Edge(8, 0), True),
        (Edge(60, 40), Edge(8, 1), False),
        (Edge(10, 4), Edge(3, 0), False),
        (Edge(600, 36), Edge(60, 0), False),
        (Edge(600, 36), Edge(100, 0), True),
    ],
    ids=["goes on", "nobody asks", "enough are well", "one still fails", "too few to say", "chance", "no chance"],
)
def test_failures_that_have_ended_no_longer_count_once_that_is_more_than_chance(
    minute: Edge, recent: Edge, is_over: bool
) -> None:
    found = Recent(recent, {"covenant": recent}, {"ledger": recent})
    assert (met(minute, recent=found).state == "healthy") == is_over


def test_many_routes_with_little_traffic_are_judged_together() -> None:
    judgement = met(Edge(5, 2), whole=Edge(50, 20))
    assert (judgement.state, judgement.why) == ("failing", "40% of 50 requests fail")


def test_a_failure_passed_on_says_whose_it_is() -> None:
    assert met(Edge(64, 23), blame={"covenant": "mint"}).why.endswith("fail because of mint")


SLOW = [
    ("like its last hour", 9.0, {"ledger": 8.0}, LEDGER, "healthy"),
    ("three times, but little", 30.0, {"ledger": 8.0}, LEDGER, "healthy"),
    ("much more than usual", 900.0, {"ledger": 80.0}, LEDGER, "degraded"),
    ("no habit, far from its deadline", 900.0, {}, LEDGER, "healthy"),
    ("no habit, near its deadline", 8000.0, {}, LEDGER, "degraded"),
    ("past its own threshold", 260.0, {}, replace(LEDGER, slow_ms=250.0), "degraded"),
    ("within its own threshold, whatever is usual", 240.0, {"ledger": 2.0}, replace(LEDGER, slow_ms=250.0), "healthy"),
]


@pytest.mark.parametrize(("case", "p95", "usual", "route", "expected"), SLOW, ids=[row[0] for row in SLOW])
def test_latency_is_judged_by_a_threshold_a_habit_or_the_deadline(
    case: str, p95: float, usual: dict[str, float], route: RouteInfo, expected: str
) -> None:
    judgement = met(replace(SEEN, p95_ms=p95), route=route, usual_p95_ms=usual)
    assert judgement.state == expected
    assert ("slow" in judgement.why) == (expected == "degraded")


def test_who_is_limited_is_named_with_the_policy_that_limits() -> None:
    callers = [Caller("demo", "ledger", "covenant", 100, 83), Caller("auditor", "ledger", "covenant", 100, 40)]
    judgement = met(callers=callers)
    assert judgement.state == "degraded"
    assert judgement.why == "demo limited by standard: 83% of its requests to /covenant get 429"
    own = met(callers=[Caller("auditor", "ledger", "covenant", 100, 60)])
    assert own.why.startswith("auditor limited by auditors: 60%")
    assert met(callers=[Caller("demo", "ledger", "covenant", 100, 20)]).state == "healthy", "a few are what limits do"


def test_a_route_that_refuses_most_of_its_callers_says_why() -> None:
    judgement = met(Edge(50), refusals=[Refusal("ledger", "covenant", "key_expired", 31)])
    assert (judgement.state, judgement.why) == (
        "degraded",
        "62% of 50 requests to /covenant are refused: key expired",
    )
    assert met(Edge(600), refusals=[Refusal("ledger", "covenant", "key_unknown", 31)]).state == "healthy"
    strangers = [Refusal("ledger", "covenant", "credentials_missing", 50)]
    assert met(Edge(50), refusals=strangers).state == "healthy", "whoever scans a network meets that all day"


# -- the gateway --------------------------------------------------------------------------------

TWO = (Worker(), Worker(id="w2"))


@pytest.mark.parametrize(
    ("workers", "total", "more", "expected", "why"),
    [
        (TWO, SEEN, {}, "healthy", ""),
        (TWO, SEEN, {"down": "the gateway is stopped"}, "failing", "the gateway is stopped"),
        (TWO, SEEN, {"unseen": "Redis is stopped"}, "unknown", "Redis is stopped"),
        ((Worker(), Worker(id="w2", revision=6)), SEEN, {}, "degraded", "1 of 2 workers still serve revision 6"),
        (TWO, Edge(600, 42), {}, "degraded", "7.0% of 600 requests fail, passing on the failures of mint"),
        (
            TWO,
            SEEN,
            {"blind": Blind(traffic="ClickHouse is stopped")},
            "unknown",
            "workers report, errors not known: ClickHouse is stopped",
        ),
    ],
)
def test_the_state_of_the_gateway(workers: Any, total: Edge, more: Any, expected: str, why: str) -> None:
    changes = Changes(revision=7, published_at=NOW - 600)
    judgement = services.judge_gateway(workers, changes, Traffic(total=total), {"mint": "failing"}, NOW, **more)
    assert (judgement.state, judgement.why) == (expected, why)


def test_a_worker_has_a_moment_for_a_new_revision() -> None:
    changes = Changes(revision=7, published_at=NOW - 3)
    assert services.judge_gateway((Worker(revision=6),), changes, Traffic(total=SEEN), {}, NOW).state == "healthy"


def test_a_worker_that_is_heard_no_more_is_told() -> None:
    def judged(*workers: Worker) -> tuple[str, str]:
        judgement = services.judge_gateway(workers, Changes(), Traffic(total=SEEN), {}, NOW)
        return judgement.state, judgement.why

    assert judged(Worker("a", of=2), Worker("b", of=2), Worker("c", node="there", of=1)) == ("healthy", "")
    assert judged(Worker("a", of=2), Worker("c", node="there", of=1)) == (
        "degraded",
        "1 of 2 workers on here gives no sign of life",
    )
    assert judged(Worker("a", of=4))[1] == "3 of 4 workers on here give no sign of life"
    assert judged(Worker("a"))[0] == "healthy", "one that has just begun does not know of the others"
    assert judged(Worker("a", of=4), Worker("b", of=1))[0] == "healthy", "a restart with fewer"
