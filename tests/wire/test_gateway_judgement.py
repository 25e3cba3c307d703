"""Whom the gateway asks when instances fail, hang, look unhealthy or are too many requests behind."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.gateway.core import config
from apps.gateway.plane.health import MONITOR_SECONDS
from apps.lib import wire
from apps.lib.messages import Alive, Verdict
from tests.sealed import said
from tests.waiting import patient, until
from tests.wire.gateway import Gateway, Wire, border, running


@pytest.fixture
def two(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    """One worker before two instances; who is ejected stays out for as long as a test takes."""
    with running(tmp_path, redis_url) as gateway:
        gateway.processes.upstream(gateway.second_port, "two")
        outlier = config.Outlier(base_ejection_time=600.0)
        gateway.publish(services=gateway.service(instances=gateway.both(), outlier=outlier))
        yield gateway


def say(gateway: Gateway, name: str, state: str, version: int) -> None:
    """A verdict, as the monitor announces it."""
    about = Verdict(f"up/{name}", state, time.time(), version)  # type: ignore[arg-type]
    with gateway.redis() as client:
        client.hset(wire.HEALTH_STATE, about.instance, border().close(about, wire.HEALTH_STATE, about.instance))
        client.publish(wire.HEALTH_CHANNEL, border().close(about, wire.HEALTH_CHANNEL))


def reported(gateway: Gateway) -> dict[str, Any]:
    """What its one worker says of the service."""

    def entry() -> list[dict[str, Any]]:
        with gateway.redis() as client:
            return [said(text) for text in client.hgetall(wire.BREAKER_STATE).values()]

    return until(entry, 5, what="a report")[0]


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
    until(lambda: answering(two) == {"one"}, 10, what="rotation without two")
    say(two, "two", "healthy", 3)
    until(lambda: answering(two) == {"one", "two"}, 10, what="two back in rotation")


def test_when_all_look_unhealthy_all_are_tried_and_none_is_refused(two: Gateway) -> None:
    say(two, "one", "unhealthy", 2)
    until(lambda: answering(two) == {"two"}, 10)
    say(two, "two", "unhealthy", 2)
    until(lambda: answering(two) == {"one", "two"}, 10, what="all in rotation")
    until(lambda: reported(two).get("panic") is True, 5, what="the panic reported")
    say(two, "two", "healthy", 3)
    until(lambda: answering(two) == {"two"}, 10, what="rotation by verdicts")


def test_verdicts_of_a_monitor_that_fell_silent_do_not_count(two: Gateway) -> None:
    say(two, "two", "unhealthy", 2)
    until(lambda: answering(two) == {"one"}, 10)
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


# -- one of two -------------------------------------------------------------------------------------


def second(gateway: Gateway) -> subprocess.Popen[bytes]:
    """The process of the second instance, the last that was started."""
    return gateway.processes.all[-1]


def turn(port: int, mode: str) -> None:
    """How the instance on ``port`` answers ``/flag`` from now on."""
    with contextlib.closing(Wire(socket.create_connection(("127.0.0.1", port), 5))) as direct:
        direct.send(f"GET /mode/{mode} HTTP/1.1", "Host: x")
        assert direct.read().status == 200


def ejected(gateway: Gateway) -> list[str]:
    return [one["instance"] for one in reported(gateway)["ejected"]]


@pytest.mark.parametrize("mode", ["502", "503", "504"])
def test_one_bad_instance_of_two_costs_clients_nothing_and_opens_no_breaker(two: Gateway, mode: str) -> None:
    turn(two.second_port, mode)
    assert [two.get("/open/flag").status for _ in range(80)] == [200] * 80
    until(lambda: ejected(two) == ["up/two"], 10, what="the ejection reported")
    assert reported(two)["state"] == "closed"
    assert "up/two is ejected. 5 attempts in a row failed." in two.logs()


def test_one_bad_instance_of_two_costs_posts_the_few_it_takes_to_eject_it(two: Gateway) -> None:
    turn(two.second_port, "500")
    statuses = [two.get("/open/flag", method="POST", body=b"x").status for _ in range(80)]
    assert statuses.count(200) >= 80 - 5 and set(statuses) == {200, 500}
    assert reported(two)["state"] == "closed"


def test_many_posts_under_way_to_a_bad_instance_do_not_open_the_breaker_before_both(two: Gateway) -> None:
    turn(two.second_port, "500-late")
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(contextlib.closing(two.connect(20))) for _ in range(60)]
        for connection in crowd:
            connection.send("POST /open/flag HTTP/1.1", "Host: a", "Content-Length: 1", body=b"x")
        statuses = [connection.read().status for connection in crowd]
    assert (statuses.count(200), statuses.count(500)) == (30, 30)
    assert two.get("/open/flag", method="POST", body=b"x").status == 200
    until(lambda: ejected(two) == ["up/two"], 10)
    assert reported(two)["state"] == "closed"


def test_one_dead_instance_of_two_costs_neither_gets_nor_posts(two: Gateway) -> None:
    second(two).kill()
    assert {two.get("/open/x").status for _ in range(40)} == {200}
    assert {two.get("/open/x", method="POST", body=b"x").status for _ in range(40)} == {200}
    assert reported(two)["state"] == "closed"


def test_an_ejected_instance_comes_back_by_itself(two: Gateway) -> None:
    two.publish(services=two.service(outlier=config.Outlier(base_ejection_time=1.0)))
    turn(two.second_port, "503")
    for _ in range(20):
        two.get("/open/flag")
    until(lambda: ejected(two) == ["up/two"], 10)
    turn(two.second_port, "200")
    until(lambda: answering(two) == {"one", "two"}, 10, what="two back")
    until(lambda: ejected(two) == [], 10)


def test_the_monitors_verdict_brings_an_ejected_instance_back_at_once(two: Gateway) -> None:
    turn(two.second_port, "503")
    for _ in range(20):
        two.get("/open/flag")
    until(lambda: ejected(two) == ["up/two"], 10)
    say(two, "two", "unhealthy", 1)
    say(two, "two", "healthy", 2)
    until(lambda: answering(two) == {"one", "two"}, 10, what="two back")


def test_when_both_are_bad_neither_is_ejected_and_the_breaker_opens(two: Gateway) -> None:
    turn(two.upstream_port, "500")
    turn(two.second_port, "500")
    failures = [two.get("/open/flag").status for _ in range(20)]
    assert failures == [500] * 10 + [503] * 10
    until(lambda: reported(two)["state"] == "open", 10)
    assert ejected(two) == []


def test_a_request_is_one_call_to_the_breaker_however_many_attempts_it_took(two: Gateway) -> None:
    two.publish(services=two.service(breaker=config.Breaker(minimum_calls=100, sliding_window_size=100)))
    turn(two.upstream_port, "503")
    turn(two.second_port, "503")
    for _ in range(20):
        assert two.get("/open/flag").status == 503
    until(lambda: reported(two)["calls"] == 20, 5, what="twenty calls")
    assert reported(two)["failure_rate"] == 1.0


def test_answers_that_break_off_count_as_failed_calls(two: Gateway) -> None:
    two.publish(services=two.service(breaker=config.Breaker(failure_rate=0.9)))
    for _ in range(10):
        with contextlib.suppress(EOFError):
            two.get("/open/cut")
    assert two.get("/open/x").failure == "breaker_open"


def test_a_hanging_instance_of_two_costs_a_try_and_not_the_deadline(two: Gateway) -> None:
    two.publish(
        services=two.service(outlier=config.Outlier(consecutive_failures=2, base_ejection_time=600.0)),
        routes=(config.Route("open", "up", "/open", auth=(), timeout=20.0, per_try_timeout=0.5),),
    )
    hanging = second(two)
    hanging.send_signal(signal.SIGSTOP)
    try:
        took = []
        for _ in range(12):
            started = time.monotonic()
            assert two.get("/open/x").body == b"one"
            took.append(time.monotonic() - started)
        assert sum(seconds >= 0.5 for seconds in took) == 2 and max(took) < 5.0, took
        until(lambda: ejected(two) == ["up/two"], 10)
    finally:
        hanging.send_signal(signal.SIGCONT)


def test_half_of_the_timeout_is_what_one_try_gets_when_nothing_else_is_said(two: Gateway) -> None:
    two.publish(routes=(config.Route("open", "up", "/open", auth=(), timeout=6.0),))
    hanging = second(two)
    hanging.send_signal(signal.SIGSTOP)
    try:
        took = []
        for _ in range(2):
            started = time.monotonic()
            assert two.get("/open/x").body == b"one"
            took.append(time.monotonic() - started)
        assert 3.0 <= max(took) < 6.0
    finally:
        hanging.send_signal(signal.SIGCONT)


def test_a_slow_answer_is_waited_for_to_the_end_where_nobody_else_can_be_asked(two: Gateway) -> None:
    two.publish(
        services=two.service(instances=two.both()[:1]),
        routes=(config.Route("open", "up", "/open", auth=(), timeout=10.0, per_try_timeout=0.2),),
    )
    assert two.get("/open/slow/1").body == b"slept"
    two.publish(services=two.service(instances=two.both()))
    assert two.get("/open/slow/1", method="POST", body=b"x").body == b"slept"


# -- too many requests ------------------------------------------------------------------------------


def test_what_a_service_does_not_keep_up_with_is_refused_at_once_and_told_when_to_come_again(two: Gateway) -> None:
    two.publish(services=two.service(max_in_flight=4))
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(contextlib.closing(two.connect(20))) for _ in range(4)]
        for connection in busy:
            connection.send("GET /open/slow/3 HTTP/1.1", "Host: a")
        until(lambda: two.seen()["seen"].get("/slow/3", 0) + two.seen(two.second_port)["seen"].get("/slow/3", 0) == 4)
        started = time.monotonic()
        refused = two.get("/open/x")
        assert (refused.status, refused.failure, refused.fields["retry-after"]) == (503, "overloaded", "1")
        assert time.monotonic() - started < patient(1.0)
        assert [connection.read().body for connection in busy] == [b"slept"] * 4
    assert two.get("/open/x").status == 200
    assert reported(two)["state"] == "closed", "our own refusals say nothing about the service"


def test_a_service_that_times_out_is_sent_fewer_requests_until_it_keeps_up(two: Gateway) -> None:
    two.publish(
        services=two.service(max_in_flight=10, breaker=config.Breaker(override="closed")),
        routes=(config.Route("open", "up", "/open", auth=(), timeout=0.2, retries=0),),
    )
    timed_out = two.get("/open/hang")
    assert (timed_out.status, timed_out.failure, timed_out.fields["retry-after"]) == (504, "upstream_timeout", "1")
    until(lambda: reported(two)["limit"] < 10, 5, what="a lower limit")


# -- half-open --------------------------------------------------------------------------------------


def test_uploads_without_end_do_not_hold_a_half_open_breaker(two: Gateway) -> None:
    breaker = config.Breaker(minimum_calls=5, wait_in_open=1.0, half_open_calls=2)
    two.publish(services=two.service(breaker=breaker, outlier=config.Outlier(consecutive_failures=0)))
    for _ in range(5):
        two.get("/open/status/500")
    until(lambda: reported(two)["state"] == "half_open", 10)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            upload = stack.enter_context(contextlib.closing(two.connect()))
            upload.send("POST /open/echo HTTP/1.1", "Host: a", "Content-Length: 200000", body=b"x" * 100_000)
        until(lambda: two.get("/open/x").status == 503, 5, every=0.01, what="both places taken")
        until(lambda: two.get("/open/x").status == 200, 5, what="a place")
        until(lambda: two.get("/open/x").status == 200 and reported(two)["state"] == "closed", 5, what="closed")


def test_a_service_without_instances_says_so_and_its_breaker_stays_closed(two: Gateway) -> None:
    two.publish(services=two.service(instances=()))
    for _ in range(20):
        answer = two.get("/open/x")
        assert (answer.status, answer.failure, answer.fields["retry-after"]) == (503, "no_healthy_upstream", "1")
    assert reported(two)["state"] == "closed"
