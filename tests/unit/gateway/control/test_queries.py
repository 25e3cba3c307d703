"""What pages read of breakers and workers: the worst over the living, nothing from the dead."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from apps.gateway import queries
from apps.lib import wire
from apps.lib.messages import BreakerReport, Ejected, WorkerBeat

NOW = 1_000.0


def said(state: str = "closed", at: float = NOW, **values: Any) -> BreakerReport:
    return BreakerReport(**{"state": state, "since": NOW - 5, "calls": 4, "at": at} | values)  # type: ignore[arg-type]


def test_the_worst_state_over_live_workers_wins() -> None:
    found = queries.judge(
        {
            "nexus|a": said("closed", calls=3, failure_rate=0.1),
            "nexus|b": said("open", since=NOW - 2, calls=2, failure_rate=0.9, retry_at=NOW + 3),
            "nexus|c": said("half_open"),
            "mint|a": said("closed"),
        },
        NOW,
    )
    assert set(found) == {"nexus", "mint"}
    nexus = found["nexus"]
    assert (nexus.state, nexus.since, nexus.workers, nexus.calls) == ("open", NOW - 2, 3, 9)
    assert (nexus.failure_rate, nexus.retry_at) == (0.9, NOW + 3)
    assert found["mint"].failure_rate is None and found["mint"].retry_at is None


def test_an_instance_is_ejected_for_as_long_as_some_worker_leaves_it_out() -> None:
    bad = [Ejected("nexus/two", NOW - age, NOW + age, "5 attempts in a row failed.") for age in (1, 2)]
    reports = {"nexus|a": said(ejected=(bad[0],)), "nexus|b": said(ejected=(bad[1],), panic=True), "nexus|c": said()}
    found = queries.judge(reports, NOW)["nexus"]
    (one,) = found.ejected
    assert (one.instance, one.since, one.until, one.workers) == ("nexus/two", NOW - 2, NOW + 2, 2)
    assert found.panic and found.state == "closed"


def test_what_a_dead_worker_said_last_does_not_count() -> None:
    reports = {"nexus|dead": said("open", at=NOW - 11), "nexus|alive": said("closed")}
    assert queries.judge(reports, NOW)["nexus"].state == "closed"
    assert queries.judge({"nexus|dead": said("open", at=NOW - 11)}, NOW) == {}


def test_a_held_breaker_says_by_what() -> None:
    assert queries.judge({"nexus|a": said("open", forced=True)}, NOW)["nexus"].forced == "open"
    assert queries.judge({"nexus|a": said("closed", forced=True)}, NOW)["nexus"].forced == "closed"


def test_live_workers_are_listed_with_the_revision_they_serve(redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    now = time.time()
    with redis.Redis.from_url(redis_url) as client:
        for name, at in (("n:7", now), ("n:6", now - 60)):
            beat = settings.WIRE.close(WorkerBeat(4, at, 7, "n", 1, "d", 2, 3), wire.GATEWAY_WORKERS, name)
            client.hset(wire.GATEWAY_WORKERS, name, beat)
        report = settings.WIRE.close(said(at=now), wire.BREAKER_STATE, "nexus|n:7")
        client.hset(wire.BREAKER_STATE, "nexus|n:7", report)
    (found,) = queries.workers()
    assert (found.id, found.revision, found.pid, found.dropped, found.refused, found.of) == ("n:7", 4, 7, 1, 2, 3)
    assert queries.breakers()["nexus"].state == "closed"


@pytest.mark.parametrize(
    "junk", [b"", b"not json", b"\xff\xfe", b'{"revision":2}', b'{"state":"open","since":1,"at":9e9}', b"mc1:::"]
)
def test_what_nobody_of_ours_said_is_passed_over_and_counted(junk: bytes, redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    before = settings.WIRE.passed_over
    with redis.Redis.from_url(redis_url) as client:
        client.hset(wire.GATEWAY_WORKERS, b"odd\xff", junk)
        client.hset(wire.BREAKER_STATE, b"nexus|odd", junk)
    assert queries.workers() == [] and queries.breakers() == {}
    assert settings.WIRE.passed_over == before + 2


def test_what_was_said_of_one_worker_can_not_be_moved_to_another(redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    beat = settings.WIRE.close(WorkerBeat(4, time.time()), wire.GATEWAY_WORKERS, "n:7")
    with redis.Redis.from_url(redis_url) as client:
        client.hset(wire.GATEWAY_WORKERS, "n:8", beat)
    assert queries.workers() == []


def test_a_key_of_another_type_is_empty_and_not_an_outage(redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    with redis.Redis.from_url(redis_url) as client:
        client.set(wire.GATEWAY_WORKERS, "a string")
        client.rpush(wire.BREAKER_STATE, "a list")
    assert queries.workers() == [] and queries.breakers() == {}


def test_redis_away_is_said_and_not_taken_for_calm(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(queries.GatewayStateAway):
        queries.breakers()
    with pytest.raises(queries.GatewayStateAway):
        queries.workers()
