"""Breaker tracking: each report is recorded once, services are as bad as their worst worker, the dead are noticed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from django.conf import settings

from apps.events.models import Event
from apps.health import queries
from apps.health.breakers import CURSOR, GONE_AFTER_S, track
from apps.health.models import BreakerSpellNow, BreakerTransition, Cursor
from apps.lib.messages import BreakerReport
from apps.lib.messages import BreakerTransition as Transition
from apps.lib.wire import BREAKER_STATE, BREAKER_TRANSITIONS
from missioncontrol import keys

pytestmark = pytest.mark.django_db


class Workers:
    """Gateway workers, as Redis shows them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.now = time.time() - 1000
        self.states: dict[str, tuple[str, float]] = {}

    def at(self, worker: str, state: str, *, report: bool = True, reason: str = "because") -> None:
        before, _ = self.states.get(worker, ("closed", self.now))
        if report and worker in self.states:
            told = Transition("covenant", worker, before, state, self.now, reason)  # type: ignore[arg-type]
            self.redis.xadd(BREAKER_TRANSITIONS, {"m": settings.WIRE.close(told, BREAKER_TRANSITIONS)})
        self.states[worker] = (state, self.now)

    def dies(self, worker: str) -> None:
        del self.states[worker]

    def track(self, after: float = 1.0) -> int:
        self.now += after
        for worker, (state, since) in self.states.items():
            field = f"covenant|{worker}"
            report = BreakerReport(state, since, self.now)  # type: ignore[arg-type]
            self.redis.hset(BREAKER_STATE, field, settings.WIRE.close(report, BREAKER_STATE, field))
        return track(self.url, self.now)


@pytest.fixture
def workers(redis_url: str) -> Workers:
    found = Workers(redis_url)
    found.at("w1", "closed")
    found.at("w2", "closed")
    found.track()
    return found


def history(worker: str = "") -> list[tuple[str, str, float]]:
    rows = BreakerTransition.objects.filter(worker=worker).order_by("pk")
    return [(row.from_state, row.to_state, round(row.seconds)) for row in rows]


def events() -> list[str]:
    return [event.type.rpartition(".")[2] for event in Event.objects.order_by("pk")]


def test_nothing_to_tell_writes_nothing(workers: Workers) -> None:
    assert workers.track() == 0
    assert history("w1") == history() == []
    assert events() == []


def test_a_report_becomes_history_with_the_time_in_the_state_before(workers: Workers) -> None:
    workers.now += 59
    workers.at("w1", "open", reason="failure rate 60 %")
    assert workers.track() == 1
    assert history("w1") == [("closed", "open", 60)]
    assert BreakerTransition.objects.filter(worker="w1").get().reason == "failure rate 60 %"


def test_a_service_is_as_bad_as_its_worst_worker(workers: Workers) -> None:
    for worker, state in [("w1", "open"), ("w2", "open"), ("w1", "half_open"), ("w1", "closed"), ("w2", "half_open")]:
        workers.at(worker, state)
        workers.track()
    workers.at("w2", "closed")
    workers.track()
    assert [(before, after) for before, after, _ in history()] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert events() == ["opened", "half-opened", "closed"]
    event = Event.objects.order_by("pk")[0]
    assert (event.type, event.subject, event.data["reason"]) == ("system.breaker.opened", "covenant", "because")


def test_a_batch_with_ups_and_downs_keeps_each_step(workers: Workers) -> None:
    for state in ("open", "half_open", "open", "half_open", "closed"):
        workers.now += 5
        workers.at("w1", state)
    assert workers.track() == 5
    assert [after for _, after, _ in history("w1")] == ["open", "half_open", "open", "half_open", "closed"]
    assert events() == ["opened", "half-opened", "opened", "half-opened", "closed"]


def test_reading_again_records_nothing_twice(workers: Workers) -> None:
    workers.at("w1", "open")
    workers.track()
    Cursor.objects.filter(name=CURSOR).update(position="0-0")
    BreakerSpellNow.objects.filter(worker="w1").update(state="closed")
    workers.track()
    assert len(history("w1")) == 1


def test_more_reports_than_one_read_takes_are_all_recorded(workers: Workers) -> None:
    for n in range(1201):
        workers.now += 0.01
        workers.at("w1", "closed" if n % 2 else "open")
    assert workers.track() == 1201
    assert len(history("w1")) == 1201


def test_a_worker_that_falls_silent_takes_its_open_breaker_along(workers: Workers) -> None:
    workers.at("w1", "open")
    workers.track()
    workers.dies("w1")
    workers.track(GONE_AFTER_S - 5)
    assert BreakerSpellNow.objects.get(worker="").state == "open", "a short silence proves nothing"
    workers.track(3 * GONE_AFTER_S)
    assert history("w1")[-1][:2] == ("open", "gone")
    assert BreakerSpellNow.objects.get(worker="").state == "closed"
    assert events() == ["opened", "closed"]
    assert "stopped reporting" in Event.objects.order_by("-pk")[0].data["reason"]


def test_the_last_worker_takes_the_service_along_without_an_event(workers: Workers) -> None:
    workers.dies("w1")
    workers.dies("w2")
    workers.track(30)
    assert not BreakerSpellNow.objects.exists()
    assert history()[-1][:2] == ("closed", "gone")
    assert events() == []
    assert queries.breaker_timeline("covenant", 0)[-1].until is not None


def test_a_redis_that_forgot_for_a_moment_changes_nothing(workers: Workers) -> None:
    workers.redis.flushall()
    track(workers.url, workers.now + 1)
    workers.track(2)
    assert history() == history("w1") == []


def test_a_state_whose_report_was_lost_is_noticed(workers: Workers) -> None:
    workers.at("w1", "open", report=False)
    workers.track()
    assert history("w1") == [], "its report may be a moment behind"
    workers.track(GONE_AFTER_S + 1)
    assert history("w1") == [("closed", "open", 1)]
    workers.track()
    assert len(history("w1")) == 1
    assert events() == ["opened"]


GOOD = {"service": "covenant", "worker": "w", "from": "closed", "to": "open", "at": 1}


@pytest.mark.parametrize(
    "said",
    [
        {},
        GOOD | {"to": "ajar"},
        GOOD | {"at": "noon"},
        GOOD | {"at": 1e300},
        GOOD | {"service": "x" * 100},
        GOOD | {"service": ""},
        [GOOD],
    ],
)
def test_a_report_that_does_not_read_is_passed_over(workers: Workers, said: object) -> None:
    sealed = keys.wire().close(BREAKER_TRANSITIONS, json.dumps(said).encode(), time.time())
    workers.redis.xadd(BREAKER_TRANSITIONS, {"m": sealed})
    workers.at("w1", "open")
    assert workers.track() == 1
    assert workers.track() == 0


@pytest.mark.parametrize("fields", [GOOD, {"m": json.dumps(GOOD)}, {"m": b"\xff"}, {"m": ""}, {b"\xff": "x"}])
def test_a_report_of_nobody_we_know_is_passed_over(workers: Workers, fields: dict[Any, Any]) -> None:
    workers.redis.xadd(BREAKER_TRANSITIONS, fields)
    workers.redis.hset(BREAKER_STATE, "covenant|odd", json.dumps({"state": "open", "since": 1, "at": workers.now}))
    workers.redis.hset(BREAKER_STATE, "nonsense", '{"state": "open"}')
    workers.at("w1", "open")
    assert workers.track() == 1
    assert workers.track() == 0
    assert history("odd") == history("w") == []


def test_what_was_true_once_is_not_true_again_because_it_is_said_again(workers: Workers) -> None:
    for state in ("open", "half_open", "closed"):
        workers.now += 1
        workers.at("w1", state)
    workers.track()
    for _, fields in workers.redis.xrange(BREAKER_TRANSITIONS):
        workers.redis.xadd(BREAKER_TRANSITIONS, fields)
    assert workers.track() == 0
    assert len(history("w1")) == 3
    assert BreakerSpellNow.objects.get(worker="w1").state == "closed"


def test_a_strangers_place_at_the_end_of_time_does_not_end_tracking(workers: Workers) -> None:
    workers.redis.xadd(BREAKER_TRANSITIONS, {"m": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    workers.track()
    settings.WIRE.clear(workers.redis)  # as the workers do when they can't write
    workers.at("w1", "open")
    assert workers.track() == 1


@pytest.mark.parametrize("name", [BREAKER_STATE, BREAKER_TRANSITIONS])
def test_a_key_of_another_type_is_as_good_as_empty(redis_url: str, name: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(name, "a string")
    assert track(redis_url, time.time()) == 0


def test_redis_away_is_the_callers_to_know() -> None:
    with pytest.raises(redis.RedisError):
        track("redis://127.0.0.1:1/0", time.time())


def test_time_in_state_and_timeline(workers: Workers) -> None:
    start = workers.now
    workers.now += 100
    workers.at("w1", "open", reason="too many failures")
    workers.now += 5
    workers.at("w1", "half_open")
    workers.now += 1
    workers.at("w1", "closed")
    workers.track()
    spent = queries.breaker_time_in_state("covenant", start, start + 200)
    assert {state: round(seconds) for state, seconds in spent.items()} == {"closed": 194, "open": 5, "half_open": 1}
    stays = queries.breaker_timeline("covenant", start)
    assert [(stay.state, stay.until is None) for stay in stays] == [
        ("closed", False),
        ("open", False),
        ("half_open", False),
        ("closed", True),
    ]
    assert stays[1].reason == "too many failures"
    assert {stay.worker for stay in queries.breaker_timeline("covenant", start, worker="*")} == {"w1", "w2"}
