"""Rounds of probing: claims, compare-and-set, history, events, and what Redis is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from apps.events.models import Event
from apps.health import rounds
from apps.health.announce import Announcer
from apps.health.findings import record
from apps.health.models import HealthCheck, HealthTransition, InstanceHealth
from apps.health.probes import Finding
from apps.health.rounds import Target, begin
from apps.lib.wire import HEALTH_CHANNEL, HEALTH_STATE
from apps.registry.models import Instance, Service
from tests.sealed import said

pytestmark = pytest.mark.django_db

GOOD = Finding(True, 0, 3.5, "answered 200")
BAD = Finding(False, 0, None, "connection refused")


class Monitor:
    """Rounds at a time of the test's choosing, with the findings it wants."""

    def __init__(self, url: str) -> None:
        self.announcer = Announcer(url)
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.channel = self.redis.pubsub(ignore_subscribe_messages=True)
        self.channel.subscribe(HEALTH_CHANNEL)
        self.channel.get_message(timeout=5)
        self.now = time.time()

    def begin(self, after: float = 0.0) -> list[Target]:
        self.now += after
        return begin(self.now, self.announcer).targets

    def record(self, targets: list[Target], finding: Finding) -> None:
        at = Finding(finding.passed, self.now, finding.latency_ms, finding.detail)
        record([(target, at) for target in targets], self.announcer)

    def check(self, finding: Finding, after: float = 2.0) -> list[Target]:
        targets = self.begin(after)
        self.record(targets, finding)
        return targets

    def heard(self) -> list[tuple[str, str]]:
        found = []
        while (message := self.channel.get_message(timeout=0.1)) is not None:
            news = said(message["data"])
            found.append((news["instance"], news["state"]))
        return found

    def stored(self) -> dict[str, dict[str, object]]:
        return {key: said(value) for key, value in self.redis.hgetall(HEALTH_STATE).items()}


@pytest.fixture
def monitor(redis_url: str) -> Monitor:
    return Monitor(redis_url)


@pytest.fixture
def covenant() -> Instance:
    service = Service.objects.create(name="covenant")
    HealthCheck.objects.create(service=service, interval_s=2, timeout_s=1, rise=2, fall=2)
    return Instance.objects.create(service=service, name="covenant-1", url="http://127.0.0.1:7102")


def state() -> str:
    return InstanceHealth.objects.get().state


def test_a_round_says_when_the_next_is_due(monitor: Monitor, covenant: Instance) -> None:
    now = monitor.now
    assert begin(now, monitor.announcer).next_at == pytest.approx(now + 2.0, abs=0.001), "all were due, and are claimed"
    assert begin(now + 0.5, monitor.announcer).next_at == pytest.approx(now + 2.0, abs=0.001)
    HealthCheck.objects.update(interval_s=60)
    later = begin(now + 2.0, monitor.announcer)
    assert later.next_at == pytest.approx(now + 62.0, abs=0.001)
    HealthCheck.objects.update(interval_s=1, timeout_s=1)
    hurried = begin(now + 10.0, monitor.announcer)
    assert len(hurried.targets) == 1
    assert hurried.next_at == pytest.approx(now + 11.0, abs=0.001)
    HealthCheck.objects.update(enabled=False)
    assert begin(now + 12.0, monitor.announcer).next_at is None


def test_a_new_service_gets_a_check_and_its_instances_are_probed_at_once(monitor: Monitor) -> None:
    service = Service.objects.create(name="fresh")
    Instance.objects.create(service=service, name="fresh-1", url="http://127.0.0.1:1/")
    (target,) = monitor.begin()
    assert (target.key, target.request.url) == ("fresh/fresh-1", "http://127.0.0.1:1/health")
    assert (HealthCheck.objects.get().interval_s, state()) == (5.0, "unknown")


def test_a_probe_is_claimed_once_and_due_again_after_its_interval(monitor: Monitor, covenant: Instance) -> None:
    assert len(monitor.begin()) == 1
    assert monitor.begin() == []
    assert monitor.begin(1.0) == []
    assert len(monitor.begin(1.0)) == 1


def test_an_instance_that_appears_between_two_looks_waits_for_the_next_round(
    monitor: Monitor, covenant: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_missing = rounds._add_missing

    def and_then_another(found: Any, at: Any) -> bool:
        made = add_missing(found, at)
        Instance.objects.get_or_create(service=covenant.service, name="covenant-2", url="http://127.0.0.1:7103")
        return made

    monkeypatch.setattr(rounds, "_add_missing", and_then_another)
    assert [target.key for target in monitor.begin()] == ["covenant/covenant-1"]
    assert [target.key for target in monitor.begin()] == ["covenant/covenant-2"]


def test_two_workers_never_own_the_same_probe(monitor: Monitor, covenant: Instance) -> None:
    other = Monitor.__new__(Monitor)
    other.__dict__ = dict(monitor.__dict__)
    assert len(monitor.begin()) + len(other.begin()) == 1


def test_first_pass_makes_healthy_with_row_history_event_and_news(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    row = InstanceHealth.objects.get()
    assert (row.state, row.latency_ms, row.detail) == ("healthy", 3.5, "answered 200")
    change = HealthTransition.objects.get()
    assert (change.key, change.from_state, change.to_state) == ("covenant/covenant-1", "unknown", "healthy")
    event = Event.objects.get()
    assert (event.type, event.subject) == ("system.instance.healthy", "covenant/covenant-1")
    assert event.data["version"] == row.version == change.version
    assert monitor.heard()[-1] == ("covenant/covenant-1", "healthy")
    entry = monitor.stored()["covenant/covenant-1"]
    assert (entry["state"], entry["version"], entry["latency_ms"]) == ("healthy", row.version, 3.5)


def test_falling_and_rising_take_their_thresholds(monitor: Monitor, covenant: Instance) -> None:
    seen = []
    for finding in (GOOD, BAD, GOOD, BAD, BAD, GOOD, BAD, GOOD, GOOD):
        monitor.check(finding)
        seen.append(state())
    up, down = "healthy", "unhealthy"
    assert seen == [up, up, up, up, down, down, down, down, up]
    assert [change.to_state for change in HealthTransition.objects.order_by("pk")] == [up, down, up]
    assert [event.type for event in Event.objects.order_by("pk")] == [
        "system.instance.healthy",
        "system.instance.unhealthy",
        "system.instance.healthy",
    ]
    assert HealthTransition.objects.order_by("pk")[1].reason == "connection refused"


def test_every_check_refreshes_what_redis_holds_without_news(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    monitor.heard()
    monitor.check(Finding(True, 0, 9.0, "answered 204"))
    entry = monitor.stored()["covenant/covenant-1"]
    assert (entry["checked_at"], entry["latency_ms"], entry["detail"]) == (
        pytest.approx(monitor.now),
        9.0,
        "answered 204",
    )
    assert monitor.heard() == []


def test_a_finding_whose_row_was_claimed_anew_is_dropped(monitor: Monitor, covenant: Instance) -> None:
    slow = monitor.begin()
    monitor.check(GOOD)
    monitor.record(slow, BAD)
    row = InstanceHealth.objects.get()
    assert (row.state, row.failures, row.detail) == ("healthy", 0, "answered 200")


def test_a_verdict_that_was_overtaken_leaves_no_trace(monitor: Monitor, covenant: Instance) -> None:
    (target,) = monitor.begin()
    InstanceHealth.objects.update(version=target.version + 1)
    monitor.record([target], GOOD)
    assert (state(), HealthTransition.objects.count(), Event.objects.count()) == ("unknown", 0, 0)


def test_a_disabled_instance_is_not_probed_and_leaves_redis(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    Instance.objects.update(enabled=False)
    assert monitor.begin(2.0) == []
    assert monitor.stored() == {}
    assert monitor.heard()[-1] == ("covenant/covenant-1", "unknown")
    assert state() == "unknown"
    assert HealthTransition.objects.order_by("-pk")[0].reason == "the instance is disabled"
    Instance.objects.update(enabled=True)
    monitor.check(GOOD)
    assert monitor.stored()["covenant/covenant-1"]["state"] == "healthy"


def test_a_check_that_is_switched_off_makes_unknown(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    HealthCheck.objects.update(enabled=False)
    assert monitor.begin(2.0) == []
    assert monitor.stored()["covenant/covenant-1"]["state"] == "unknown"
    assert HealthTransition.objects.order_by("-pk")[0].reason == "checks are switched off"


def test_a_deleted_instance_leaves_redis_and_its_successor_is_believed(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    version = InstanceHealth.objects.get().version
    service = covenant.service
    covenant.delete()
    monitor.begin(1.0)
    assert monitor.stored() == {}
    Instance.objects.create(service=service, name="covenant-1", url="http://127.0.0.1:7102")
    monitor.begin(1.0)
    assert InstanceHealth.objects.get().version > version


def test_a_shortened_interval_holds_from_the_next_round(monitor: Monitor, covenant: Instance) -> None:
    HealthCheck.objects.update(interval_s=3600)
    monitor.check(GOOD)
    assert monitor.begin(5.0) == []
    HealthCheck.objects.update(interval_s=2)
    assert len(monitor.begin(1.0)) == 1


def test_a_changed_path_and_address_hold_from_the_next_probe(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    HealthCheck.objects.update(path="/alive?deep=1")
    Instance.objects.update(url="http://127.0.0.1:9/")
    assert monitor.begin(2.0)[0].request.url == "http://127.0.0.1:9/alive?deep=1"


def test_redis_that_forgot_is_told_again(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    monitor.redis.flushall()
    monitor.heard()
    monitor.begin(0.5)
    assert monitor.heard() == [("covenant/covenant-1", "healthy")]
    assert monitor.stored()["covenant/covenant-1"]["state"] == "healthy"


def test_a_new_worker_repeats_every_verdict(monitor: Monitor, covenant: Instance, redis_url: str) -> None:
    monitor.check(GOOD)
    monitor.heard()
    begin(monitor.now, Announcer(redis_url))
    assert monitor.heard() == [("covenant/covenant-1", "healthy")]


def test_with_redis_away_verdicts_are_stored_and_told_later(
    monitor: Monitor, covenant: Instance, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.announcer = Announcer("redis://127.0.0.1:1/0")
    for _ in range(3):
        monitor.check(BAD)
    assert state() == "unhealthy"
    assert len([record for record in caplog.records if "Redis does not answer" in record.message]) == 1
    monitor.announcer._url = redis_url
    monitor.begin(1.0)
    assert monitor.heard() == [("covenant/covenant-1", "unhealthy")]


def test_time_in_which_nobody_looked_is_unknown_in_the_history(monitor: Monitor, covenant: Instance) -> None:
    monitor.check(GOOD)
    start = monitor.now
    monitor.check(GOOD, after=600)
    lost, found = HealthTransition.objects.order_by("at")[1:]
    assert (lost.from_state, lost.to_state, found.from_state, found.to_state) == (
        "healthy",
        "unknown",
        "unknown",
        "healthy",
    )
    assert start < lost.at.timestamp() < start + 30
    assert found.at.timestamp() == pytest.approx(monitor.now)
    assert state() == "healthy", "the verdict itself stands until a check overturns it"
    assert Event.objects.count() == 1


def test_a_round_without_anything_due_writes_nothing(
    monitor: Monitor, covenant: Instance, django_assert_num_queries: object
) -> None:
    monitor.check(GOOD)
    with django_assert_num_queries(1):  # type: ignore[operator]
        assert monitor.begin(0.5) == []


def test_a_steady_round_costs_the_same_for_any_number_of_instances(
    monitor: Monitor, covenant: Instance, django_assert_max_num_queries: object
) -> None:
    Instance.objects.bulk_create(
        Instance(service=covenant.service, name=f"i-{n}", url=f"http://127.0.0.1:{n + 1}") for n in range(300)
    )
    monitor.check(GOOD)
    assert InstanceHealth.objects.filter(state="healthy").count() == 301
    with django_assert_max_num_queries(7):  # type: ignore[operator]
        assert len(monitor.check(GOOD)) == 301


def test_a_late_round_keeps_no_grudge(monitor: Monitor, covenant: Instance) -> None:
    """A row whose time passed long ago is due once, not once per interval missed."""
    monitor.check(GOOD)
    InstanceHealth.objects.update(next_at=datetime.now(UTC) - timedelta(days=1))
    assert len(monitor.begin(0.1)) == 1
    assert monitor.begin(0.1) == []
