"""The gateway when something fails: upstreams, clients, workers, Redis, configurations."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.gateway.core import config
from apps.lib import wire
from apps.lib.messages import BreakerReport, BreakerTransition, Verdict
from tests.waiting import patient, until
from tests.wire.engines import redis_server
from tests.wire.gateway import Gateway, border, running, signed

QUICK = config.Breaker(sliding_window_size=10, minimum_calls=5, wait_in_open=1.0, half_open_calls=2)


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    with running(tmp_path, redis_url) as found:
        yield found


@pytest.fixture
def pair(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    """Two workers."""
    with running(tmp_path, redis_url, workers=2) as found:
        until(lambda: len(found.workers_seen()) == 2, 5, what="two workers")
        yield found


class Load:
    """Requests without pause on a few kept connections until told to stop; what came back, by status."""

    def __init__(self, gateway: Gateway, path: str = "/open/x", clients: int = 4) -> None:
        self.gateway = gateway
        self.path = path
        self.statuses: dict[int, int] = {}
        self.broken = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        return sum(self.statuses.values())

    def more(self, count: int = 200) -> None:
        """Wait until so many more have been answered."""
        target = self.total + count
        until(lambda: self.total >= target, 10, every=0.01, what="more answers")

    def _run(self) -> None:
        connection = self.gateway.connect()
        while not self._stop.is_set():
            try:
                connection.send(f"GET {self.path} HTTP/1.1", "Host: a")
                status = connection.read().status
            except (OSError, EOFError):
                status = 0
                connection.close()
                connection = self.gateway.connect()
            with self._lock:
                if status:
                    self.statuses[status] = self.statuses.get(status, 0) + 1
                else:
                    self.broken += 1
        connection.close()


def breaker_states(gateway: Gateway) -> set[str]:
    with gateway.redis() as client:
        reports = border().open_all(BreakerReport, client.hgetall(wire.BREAKER_STATE), wire.BREAKER_STATE)
        return {report.state for report in reports.values()}


def worker_reports(gateway: Gateway) -> int:
    with gateway.redis() as client:
        return int(client.hlen(wire.BREAKER_STATE))


def open_breaker(gateway: Gateway) -> None:
    for _ in range(5):
        gateway.get("/open/status/500")


# -- upstreams ----------------------------------------------------------------------------------------


def test_a_dead_upstream_is_502_and_a_slow_one_504(gateway: Gateway) -> None:
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), timeout=0.3, retries=0),))
    started = time.monotonic()
    slow = gateway.get("/open/hang")
    assert (slow.status, slow.failure) == (504, "upstream_timeout") and time.monotonic() - started < patient(1.0)
    assert gateway.get("/open/reset").failure == "upstream_reset"
    gateway.publish(services=gateway.service(instances=(config.Instance("gone", "http://127.0.0.1:1"),)))
    assert gateway.get("/open/x").failure == "upstream_connect_failed"


def test_a_silent_address_is_a_connect_timeout(gateway: Gateway) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with contextlib.ExitStack() as waiting:
            for _ in range(4):  # fill the queue, so that further connections get no answer
                filler = waiting.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            instance = config.Instance("one", f"http://127.0.0.1:{port}")
            gateway.publish(services=gateway.service(instances=(instance,), connect_timeout=0.2))
            answer = gateway.get("/open/x")
            assert (answer.status, answer.failure) == (504, "upstream_connect_timeout")


def test_an_idempotent_request_is_tried_on_another_instance_and_a_post_is_not(gateway: Gateway) -> None:
    gateway.processes.upstream(gateway.second_port, "two")
    gateway.publish(services=gateway.service(instances=gateway.both(), breaker=config.Breaker(minimum_calls=1000)))
    both = {gateway.get("/open/x").body for _ in range(4)}
    assert both == {b"one", b"two"}
    gateway.get("/open/mode/503")  # one of the two now answers 503
    assert [gateway.get("/open/flag").status for _ in range(4)] == [200] * 4
    assert sorted(gateway.get("/open/flag", method="POST", body=b"x").status for _ in range(4)) == [200, 200, 503, 503]
    assert [gateway.get("/open/flag", method="PUT", body=b"x").status for _ in range(4)] == [200] * 4


def test_an_instance_that_dies_costs_no_request_while_another_lives(gateway: Gateway) -> None:
    second = gateway.processes.upstream(gateway.second_port, "two")
    gateway.publish(services=gateway.service(instances=gateway.both(), breaker=config.Breaker(minimum_calls=1000)))
    with Load(gateway) as load:
        load.more()
        second.kill()
        load.more(400)
    assert set(load.statuses) == {200} and load.broken == 0


# -- breakers -----------------------------------------------------------------------------------------


def test_a_breaker_opens_answers_at_once_and_closes_again_by_itself(gateway: Gateway) -> None:
    gateway.publish(services=gateway.service(breaker=QUICK))
    open_breaker(gateway)
    started = time.monotonic()
    refused = gateway.get("/open/x")
    assert time.monotonic() - started < patient(0.05)
    assert (refused.status, refused.failure, refused.fields["retry-after"]) == (503, "breaker_open", "1")
    until(lambda: "half_open" in breaker_states(gateway), 4, what="half open without traffic")
    assert [gateway.get("/open/x").status for _ in range(2)] == [200, 200]
    until(lambda: breaker_states(gateway) == {"closed"}, 2)
    with gateway.redis() as client:
        entries = client.xrange(wire.BREAKER_TRANSITIONS)
    told = [border().open(BreakerTransition, entry["m"], wire.BREAKER_TRANSITIONS) for _, entry in entries]
    seen = [one.after for one in told if one is not None]
    assert seen == ["open", "half_open", "closed"]


def test_a_failed_trial_opens_it_again(gateway: Gateway) -> None:
    gateway.publish(services=gateway.service(breaker=QUICK))
    open_breaker(gateway)
    until(lambda: "half_open" in breaker_states(gateway), 4)
    gateway.get("/open/status/500")
    gateway.get("/open/status/500")
    assert gateway.get("/open/x").failure == "breaker_open"


def test_workers_open_together(pair: Gateway) -> None:
    pair.publish(services=pair.service(breaker=config.Breaker(minimum_calls=5, wait_in_open=30)))
    open_breaker(pair)
    open_breaker(pair)
    until(lambda: breaker_states(pair) == {"open"} and worker_reports(pair) == 2, 3, what="both workers open")
    assert {pair.get("/open/x").failure for _ in range(10)} == {"breaker_open"}


def test_an_operators_override_holds_until_released(gateway: Gateway) -> None:
    gateway.publish(services=gateway.service(breaker=config.Breaker(override="open")))
    assert gateway.get("/open/x").failure == "breaker_open"
    gateway.publish(services=gateway.service(breaker=config.Breaker(override="closed", minimum_calls=1)))
    assert [gateway.get("/open/status/500").status for _ in range(12)] == [500] * 12
    gateway.publish(services=gateway.service(breaker=config.Breaker()))
    assert gateway.get("/open/x").status == 200


def test_a_failed_dependency_is_not_counted_against_the_service_that_names_it(gateway: Gateway) -> None:
    gateway.publish(services=gateway.service(breaker=QUICK, fleet=True))
    for _ in range(10):
        answer = gateway.get("/open/dependency")
        assert (answer.status, answer.fields["x-failed-dependency"]) == (503, "other")
    gateway.publish(services=gateway.service(fleet=False))  # anyone else's word for it means nothing
    for _ in range(5):
        gateway.get("/open/dependency")
    assert gateway.get("/open/x").failure == "breaker_open"


def test_a_monitored_recovery_closes_the_breaker_without_traffic(gateway: Gateway) -> None:
    gateway.publish(services=gateway.service(breaker=config.Breaker(minimum_calls=5, wait_in_open=60)))
    open_breaker(gateway)
    assert gateway.get("/open/x").failure == "breaker_open"
    with gateway.redis() as client:
        for state, version in (("unhealthy", 5), ("healthy", 6)):
            verdict = Verdict("up/one", state, time.time(), version)  # type: ignore[arg-type]
            client.publish(wire.HEALTH_CHANNEL, border().close(verdict, wire.HEALTH_CHANNEL))
    until(lambda: breaker_states(gateway) == {"half_open"}, 1, what="on trial, without the wait in open")
    until(lambda: breaker_states(gateway) == {"closed"}, 4, what="closed, though nobody called")


# -- clients ------------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_ends_the_upstreams_work_and_frees_the_trial_place(gateway: Gateway) -> None:
    breaker = config.Breaker(minimum_calls=5, wait_in_open=0.3, half_open_calls=1)
    gateway.publish(services=gateway.service(breaker=breaker))
    open_breaker(gateway)
    until(lambda: "half_open" in breaker_states(gateway), 3)
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/hang HTTP/1.1", "Host: a")
        until(lambda: "/hang" in gateway.seen()["seen"], 3)
    until(lambda: gateway.seen()["aborted"] == 1, 3, what="the upstream's connection closed")
    until(lambda: gateway.get("/open/x").status == 200, 1, what="a trial place")


def test_a_client_that_stops_sending_is_408(gateway: Gateway) -> None:
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), idle_timeout=0.3),))
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("POST /open/echo HTTP/1.1", "Host: a", "Content-Length: 10", body=b"half")
        answer = connection.read()
        assert (answer.status, answer.failure) == (408, "request_timeout") and connection.closed()


def test_an_answer_that_stops_is_cut_short(gateway: Gateway) -> None:
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), idle_timeout=0.3),))
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/bytes/50000000 HTTP/1.1", "Host: a")
        connection.more()
        os.kill(gateway.processes.all[0].pid, signal.SIGSTOP)
        with contextlib.suppress(ConnectionError):
            assert connection.skip(50_000_000) < 50_000_000


# -- configuration ------------------------------------------------------------------------------------


def test_swapping_the_configuration_under_load_fails_no_request(pair: Gateway) -> None:
    pair.processes.upstream(pair.second_port, "two")
    with Load(pair) as load:
        for number in range(10):
            instances = pair.both() if number % 2 else pair.both()[:1]
            started = time.monotonic()
            pair.publish(services=pair.service(instances=instances))
            assert time.monotonic() - started < patient(2.0)
            load.more(50)
    assert set(load.statuses) == {200} and load.broken == 0


def test_a_document_that_does_not_hold_together_changes_nothing(gateway: Gateway) -> None:
    with gateway.redis() as client:
        for bad in (b"{", b"{}", b'{"revision": 99, "created_at": 1, "routes": [{"name": "x"}]}'):
            client.set(wire.CONFIG_CURRENT, signed(bad))
            client.publish(wire.CONFIG_CHANNEL, "99")
    until(lambda: gateway.logs().count("was refused") >= 1, 3)
    assert gateway.get("/open/x").status == 200
    gateway.publish()
    assert gateway.get("/-/ready").json()["revision"] == gateway.revision


def test_not_ready_before_the_first_revision(tmp_path: Path, redis_url: str) -> None:
    gateway = Gateway(tmp_path, redis_url)
    try:
        gateway.start()
        for path, failure in (("/-/ready", "not_ready"), ("/open/x", "no_configuration")):
            answer = gateway.get(path)
            assert (answer.status, answer.failure) == (503, failure)
        gateway.processes.upstream(gateway.upstream_port)
        gateway.publish()
        assert gateway.get("/open/x").status == 200
    finally:
        gateway.processes.stop()


def test_it_starts_from_the_last_good_revision_with_nothing_else_alive(gateway: Gateway) -> None:
    saved = gateway.folder / "home" / "gateway" / "revision.json"
    until(saved.exists, 3)
    assert saved.stat().st_mode & 0o777 == 0o600
    assert gateway.process is not None
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    gateway.redis_url = "redis://127.0.0.1:1/0"
    gateway.start()
    assert gateway.get("/-/ready").status == 200
    assert gateway.get("/open/x").status == 200


# -- Redis and workers --------------------------------------------------------------------------------


def test_redis_stopping_under_load_costs_no_request(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (url, process), running(tmp_path, url, workers=1) as gateway:
        limits = (config.RateLimit("wide", 1_000_000),)
        gateway.publish(rate_limits=limits, routes=(config.Route("open", "up", "/open", auth=(), rate_limit="wide"),))
        with Load(gateway) as load:
            load.more()
            process.kill()
            process.wait(5)
            load.more(400)
        assert set(load.statuses) == {200} and load.broken == 0


def test_a_killed_worker_is_replaced_and_the_others_go_on(pair: Gateway) -> None:
    pids = pair.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: len(set(pair.worker_pids()) - set(pids)) == 1, 5, what="a new worker")
    assert {pair.get("/open/x").status for _ in range(10)} == {200}


def test_who_is_left_says_that_a_worker_that_hangs_is_missing(pair: Gateway) -> None:
    hung, *_ = pair.worker_pids()
    os.kill(hung, signal.SIGSTOP)
    try:
        until(lambda: 2 in [beat["of"] for beat in pair.workers_seen().values()], 20, what="the one that still speaks")
    finally:
        os.kill(hung, signal.SIGCONT)


def test_sigterm_lets_requests_in_flight_finish(gateway: Gateway) -> None:
    assert gateway.process is not None
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/slow/0.7 HTTP/1.1", "Host: a")
        until(lambda: "/slow/0.7" in gateway.seen()["seen"], 3)
        gateway.process.send_signal(signal.SIGTERM)
        answer = connection.read()
        assert answer.body == b"slept" and answer.fields["connection"] == "close"
    assert gateway.process.wait(5) == 0
    assert gateway.workers_seen() == {}


def test_workers_end_when_their_parent_vanishes(pair: Gateway) -> None:
    pids = pair.worker_pids()
    assert pair.process is not None
    pair.process.kill()
    until(lambda: not any(alive(pid) for pid in pids), 10, what="orphans gone")


def alive(pid: int) -> bool:
    try:
        state: Any = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return bool(state != "Z")


def test_a_taken_port_is_one_clear_sentence(gateway: Gateway) -> None:
    second = Gateway(gateway.folder, gateway.redis_url)
    second.port = gateway.port
    process = second.processes.start("second", "-m", "missioncontrol.gateway", env=environment(second))
    assert process.wait(10) == 2
    assert (gateway.folder / "second.log").read_text().strip() == (
        f"The gateway can't listen on 127.0.0.1:{gateway.port}: it is taken. Set MC_GATEWAY_PORT to another."
    )


def environment(gateway: Gateway) -> dict[str, str]:
    return {"MC_GATEWAY_PORT": str(gateway.port), "MC_KEY_PEPPER": "x", "MC_FLEET_TOKEN": "x"}
