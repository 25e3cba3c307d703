"""What pages read of breakers and workers: the worst over the living, nothing from the dead."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from apps.gateway import queries
from apps.lib import wire

NOW = 1_000.0


def said(state: str = "closed", at: float = NOW, **values: Any) -> str:
    base = {"state": state, "since": NOW - 5, "forced": None, "calls": 4, "failure_rate": None, "slow_rate": None}
    return json.dumps(base | {"retry_at": None, "at": at} | values)


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


def test_what_a_dead_worker_said_last_does_not_count() -> None:
    reports = {"nexus|dead": said("open", at=NOW - 11), "nexus|alive": said("closed")}
    assert queries.judge(reports, NOW)["nexus"].state == "closed"
    assert queries.judge({"nexus|dead": said("open", at=NOW - 11)}, NOW) == {}


@pytest.mark.parametrize("junk", ["", "not json", "[]", '"x"', '{"state":"melted","at":1000}', '{"at":1000}'])
def test_a_report_that_does_not_read_is_left_out(junk: str) -> None:
    assert queries.judge({"nexus|a": junk, "nexus|b": said()}, NOW)["nexus"].workers == 1


def test_a_held_breaker_says_by_what() -> None:
    assert queries.judge({"nexus|a": said("open", forced="open")}, NOW)["nexus"].forced == "open"
    assert queries.judge({"nexus|a": said("closed", forced=True)}, NOW)["nexus"].forced == "closed"


def test_live_workers_are_listed_with_the_revision_they_serve(redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    now = time.time()
    worker = {"revision": 4, "digest": "d", "at": now, "pid": 7, "node": "n", "dropped": 1}
    with redis.Redis.from_url(redis_url) as client:
        client.hset(wire.GATEWAY_WORKERS, "n:7", json.dumps(worker))
        client.hset(wire.GATEWAY_WORKERS, "n:6", json.dumps(worker | {"at": now - 60}))
        client.hset(wire.BREAKER_STATE, "nexus|n:7", said(at=now))
    (found,) = queries.workers()
    assert (found.id, found.revision, found.pid, found.dropped) == ("n:7", 4, 7, 1)
    assert queries.breakers()["nexus"].state == "closed"


def test_redis_away_is_said_and_not_taken_for_calm(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(queries.GatewayStateAway):
        queries.breakers()
    with pytest.raises(queries.GatewayStateAway):
        queries.workers()
