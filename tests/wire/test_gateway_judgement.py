"""Whom the gateway asks when instances fail, hang, look unhealthy or are too many requests behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.gateway.plane.health import MONITOR_SECONDS
from apps.lib import wire
from apps.lib.messages import Alive, Verdict
from tests.sealed import said
from tests.waiting import until
from tests.wire.gateway import Gateway, border, running


@pytest.fixture
def two(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    """One worker before two instances."""
    with running(tmp_path, redis_url) as gateway:
        gateway.processes.upstream(gateway.second_port, "two")
        gateway.publish(services=gateway.service(instances=gateway.both()))
        yield gateway


def say(gateway: Gateway, name: str, state: str, version: int) -> None:
    """A verdict, as the monitor announces it."""
    about = Verdict(f"up/{name}", state, time.time(), version)  # type: ignore[arg-type]
    with gateway.redis() as client:
        client.hset(wire.HEALTH_STATE, about.instance, border().close(about, wire.HEALTH_STATE, about.instance))
        client.publish(wire.HEALTH_CHANNEL, border().close(about, wire.HEALTH_CHANNEL))


def reported(gateway: Gateway) -> dict[str, Any]:
    """What its one worker says of the service."""
    with gateway.redis() as client:
        found = [said(text) for text in client.hgetall(wire.BREAKER_STATE).values()]
    return found[0] if found else {}


def passed_over(gateway: Gateway) -> int:
    """How many messages its one worker did not believe."""
    return sum(beat["refused"] for beat in gateway.workers_seen().values())


def answering(gateway: Gateway) -> set[str]:
    """Which instances answer a few requests in a row; statuses of those that fail."""
    answers = [gateway.get("/open/x") for _ in range(4)]
    return {answer.body.decode() if answer.status == 200 else str(answer.status) for answer in answers}


# -- verdicts ---------------------------------------------------------------------------------------


def test_an_unhealthy_instance_leaves_rotation_and_comes_back_with_its_verdict(two: Gateway) -> None:
    say(two, "two", "unhealthy", 2)
    until(lambda: answering(two) == {"one"}, 2, what="rotation without two")
    say(two, "two", "healthy", 3)
    until(lambda: answering(two) == {"one", "two"}, 2, what="two back in rotation")


def test_when_all_look_unhealthy_all_are_tried_and_none_is_refused(two: Gateway) -> None:
    say(two, "one", "unhealthy", 2)
    until(lambda: answering(two) == {"two"}, 2)
    say(two, "two", "unhealthy", 2)
    until(lambda: answering(two) == {"one", "two"}, 2, what="all in rotation")
    until(lambda: reported(two).get("panic") is True, 5, what="the panic reported")
    say(two, "two", "healthy", 3)
    until(lambda: answering(two) == {"two"}, 2, what="rotation by verdicts")


def test_verdicts_of_a_monitor_that_fell_silent_do_not_count(two: Gateway) -> None:
    say(two, "two", "unhealthy", 2)
    until(lambda: answering(two) == {"one"}, 2)
    # It fell silent: its verdict stays in Redis, wrong or not.
    until(lambda: answering(two) == {"one", "two"}, MONITOR_SECONDS + 5, every=0.5, what="two tried again")
    with two.redis() as client:
        name = wire.HEARTBEAT_PREFIX + wire.MONITOR
        client.set(name, json.dumps({"at": time.time(), "pid": 1}), ex=10)
        until(lambda: passed_over(two) > 0, 10, what="a stranger's word for the monitor's")
        assert answering(two) == {"one", "two"}
        client.set(name, border().close(Alive(time.time(), 1), name), ex=10)
    until(lambda: answering(two) == {"one"}, 10, what="its word counts again")


def test_a_verdict_found_at_the_start_counts_only_with_a_monitor_alive(tmp_path: Path, redis_url: str) -> None:
    gateway = Gateway(tmp_path, redis_url)
    with gateway.redis() as client:
        client.delete(wire.HEARTBEAT_PREFIX + wire.MONITOR)
        old = Verdict("up/one", "unhealthy", time.time() - 600, 5)
        client.hset(wire.HEALTH_STATE, "up/one", border().close(old, wire.HEALTH_STATE, "up/one"))
    try:
        gateway.processes.upstream(gateway.upstream_port)
        gateway.processes.upstream(gateway.second_port, "two")
        gateway.publish(services=gateway.service(instances=gateway.both()))
        gateway.start()
        gateway.wait_ready()
        assert answering(gateway) == {"one", "two"}
    finally:
        gateway.processes.stop()
