"""Health monitoring by its real processes: Celery's worker and beat, a real Redis, instances that come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from apps.lib.border import Border
from apps.lib.messages import BreakerTransition
from apps.lib.wire import (
    BREAKER_STATE,
    BREAKER_TRANSITIONS,
    HEALTH_CHANNEL,
    HEALTH_STATE,
    HEARTBEAT_PREFIX,
    MONITOR,
    MONITOR_LEASE,
)
from missioncontrol import keys
from missioncontrol.launch.engines import redis_server
from tests.fleet import Fleet
from tests.redis_server import RedisServer
from tests.sealed import said
from tests.waiting import free_port, listening, patient, until

KEY = "covenant/covenant-1"
SETUP = """
from apps.registry.models import Service, Instance
from apps.health.models import HealthCheck
s = Service.objects.create(name="covenant")
HealthCheck.objects.create(service=s, interval_s=1, timeout_s=1, rise=2, fall=2)
Instance.objects.create(service=s, name="covenant-1", url="http://127.0.0.1:%d")
"""
SLOWLY = """
from apps.health.models import HealthCheck
HealthCheck.objects.update(interval_s=60)
"""
QUICKLY = """
from django.contrib.auth.models import User
from rest_framework.test import APIClient
user, _ = User.objects.get_or_create(username="root", is_superuser=True, is_staff=True)
client = APIClient(SERVER_NAME="localhost")
client.force_authenticate(user)
answer = client.patch("/api/v1/health-checks/covenant/", {"interval_s": 1}, format="json")
assert answer.status_code == 200, answer.content
"""
ASK = """
import json
from apps.health.models import HealthTransition, BreakerTransition
print(json.dumps([[t.from_state, t.to_state, t.reason] for t in HealthTransition.objects.order_by("pk")]))
print(json.dumps([[t.worker, t.to_state] for t in BreakerTransition.objects.order_by("pk")]))
"""


class Instance:
    """An HTTP server that answers /health as it is told, and can be gone."""

    def __init__(self) -> None:
        self.port = free_port()
        self.status, self.body = 200, b'{"status":"ok"}'
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Monitoring:
    """Redis, worker and beat, in a home of their own."""

    def __init__(self, home: Path, instance: Instance) -> None:
        self.home, self.instance = home, instance
        self.redis = RedisServer(home, durable=True)
        self.redis_port = self.redis.port
        self.env = os.environ | {
            "MC_REDIS_PORT": str(self.redis_port),
            "MC_REDIS_PASSWORD": self.redis.password,
            "DATABASE_URL": f"sqlite:///{home}/control.sqlite3",
            "MC_OTLP_HTTP_PORT": str(free_port()),
        }
        self.env.pop("REDIS_URL", None)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.client = redis.Redis.from_url(self.redis.url, decode_responses=True)

    def start(self, name: str) -> None:
        celery = [sys.executable, "-m", "celery", "-A", "missioncontrol.celery", "--quiet"]
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        argv = {
            "redis": [redis_server(Path(sys.prefix)).path, str(self.redis.config)],
            "worker": [*celery, "worker", "--pool", "threads", "--concurrency", "4", *lean],
            "second worker": [*celery, "worker", "-n", "second@%h", "--pool", "threads", "--concurrency", "1", *lean],
            "beat": [*celery, "beat", "--pidfile="],
        }[name]
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(15)

    def django(self, code: str) -> str:
        argv = [sys.executable, "manage.py", "shell", "-v0", "-c", code]
        return subprocess.run(argv, env=self.env, check=True, timeout=60, capture_output=True, text=True).stdout

    def history(self) -> tuple[list[list[str]], list[list[str]]]:
        health, breakers = self.django(ASK).strip().splitlines()[-2:]
        return json.loads(health), json.loads(breakers)

    def verdict(self) -> dict[str, Any]:
        return said(self.client.hget(HEALTH_STATE, KEY))

    def state(self) -> str:
        return str(self.verdict().get("state", ""))

    def checked_since(self, at: float) -> bool:
        return (self.verdict().get("checked_at") or 0) > at

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.home.glob("*.log")))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    instance = Instance()
    instance.start()
    found = Monitoring(tmp_path_factory.mktemp("monitoring"), instance)
    try:
        found.start("redis")
        until(lambda: listening(found.redis_port), 10, what="redis")
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], env=found.env, check=True, timeout=90)
        found.django(SETUP % instance.port)
        yield found
    finally:
        for name in list(found.processes):
            found.kill(name)
        instance.stop()


@pytest.fixture
def monitoring(system: Monitoring) -> Monitoring:
    """Everything runs, the instance is well and known to be."""
    system.instance.stop()
    system.instance.status, system.instance.body = 200, b"{}"
    system.instance.start()
    for name in ("redis", "worker", "beat"):
        if name not in system.processes:
            system.start(name)
    try:
        until(lambda: _without_error(system.state) == "healthy", 30, what="a healthy verdict")
    except AssertionError:
        raise AssertionError(system.logs()) from None
    return system


def test_an_instance_that_dies_and_comes_back(monitoring: Monitoring) -> None:
    channel = monitoring.client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(HEALTH_CHANNEL)
    channel.get_message(timeout=5)

    def next_news() -> tuple[str, float]:
        message = until(lambda: channel.get_message(timeout=0.05), 10, every=0, what="a verdict")
        news = said(message["data"])
        return news["state"], time.time() - news["at"]

    start = time.monotonic()
    monitoring.instance.stop()
    state, delay = next_news()
    assert state == "unhealthy"
    assert time.monotonic() - start < patient(6), "two probes, one second apart"
    assert delay < patient(1), "told within a second of the verdict"
    assert monitoring.verdict()["detail"] == "connection refused"
    monitoring.instance.start()
    state, delay = next_news()
    assert (state, delay < patient(1)) == ("healthy", True)
    monitoring.instance.status, monitoring.instance.body = 503, b'{"detail":"database is locked"}'
    assert next_news()[0] == "unhealthy"
    health, _ = monitoring.history()
    assert [after for _, after, _ in health][-4:] == ["healthy", "unhealthy", "healthy", "unhealthy"]
    assert health[-1][2] == "answered 503: database is locked"


def test_a_worker_that_is_killed_loses_and_invents_nothing(monitoring: Monitoring) -> None:
    before, _ = monitoring.history()
    monitoring.kill("worker")
    monitoring.client.delete(HEALTH_STATE)
    killed = time.time()
    monitoring.start("worker")
    until(lambda: monitoring.state() == "healthy" and monitoring.checked_since(killed), 20, what="probes go on")
    after = monitoring.history()[0]
    assert after[: len(before)] == before
    # Where the start took longer than a verdict lives, it is said that nobody looked, and nothing else.
    gap = [
        ["healthy", "unknown", "nobody checked: the monitor was not running"],
        ["unknown", "healthy", "the monitor runs again"],
    ]
    assert after[len(before) :] in ([], gap)


def test_the_monitors_sign_of_life_comes_from_its_rounds(monitoring: Monitoring) -> None:
    name = HEARTBEAT_PREFIX + MONITOR
    first = until(lambda: monitoring.client.get(name), 10, what="a sign of life")
    until(lambda: monitoring.client.get(name) != first, 10, what="another one")
    monitoring.kill("worker")
    until(lambda: monitoring.client.get(name) is None, 15, what="silence")


def test_health_checks_need_no_beat_and_one_worker_of_two_holds_them(monitoring: Monitoring) -> None:
    """And when it is killed, the other goes on before anybody has reason to doubt a verdict (15 s)."""
    monitoring.kill("beat")
    monitoring.start("second worker")
    until(lambda: monitoring.client.exists(MONITOR_LEASE), 10, what="a lease")
    monitoring.kill("worker")
    killed = time.time()
    until(lambda: monitoring.checked_since(killed), 10, what="the other's rounds")
    started = time.time()
    monitoring.start("worker")
    # A worker that asks to stop gives its lease back: the next round is no later than it would have been.
    until(lambda: monitoring.client.get(HEARTBEAT_PREFIX + "worker"), 20, what="the first one again")
    assert monitoring.kill("second worker", signal.SIGTERM) == 0
    ended = time.time()
    until(lambda: monitoring.checked_since(ended), 4, what="rounds go on at once")
    assert ended - started < patient(40)


def test_a_check_that_is_changed_holds_at_once(monitoring: Monitoring) -> None:
    """Though the monitor would sleep for seconds yet: whoever changes it wakes it."""
    monitoring.django(SLOWLY)
    until(lambda: time.time() - monitoring.verdict()["checked_at"] > 2.0, 10, what="a pause")
    began = time.time()
    monitoring.django(QUICKLY)
    changed = time.time()
    until(lambda: monitoring.checked_since(began), 2, what="a check")
    until(lambda: monitoring.checked_since(changed + 1.5), 4, what="a check each second again")


def test_health_checks_send_no_tasks(monitoring: Monitoring) -> None:
    def tasks() -> int:
        return int(monitoring.client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0))

    def sign_of_beat() -> str | None:
        return monitoring.client.get(HEARTBEAT_PREFIX + "beat")

    before = tasks()
    for _ in range(3):
        sign, began = sign_of_beat(), time.time()
        until(lambda sign=sign: sign_of_beat() not in (sign, None), 20, what="a turn of the schedule")
        until(lambda began=began: monitoring.checked_since(began), 10, what="a check")
    assert tasks() == before


def test_worker_and_beat_outlive_redis(monitoring: Monitoring) -> None:
    monitoring.kill("redis")
    monitoring.instance.stop()
    time.sleep(4)
    monitoring.start("redis")
    until(lambda: listening(monitoring.redis_port), 10, what="redis")
    # The first moments of a new Redis: it may still be reading its file.
    until(lambda: _without_error(monitoring.state) == "unhealthy", 30, what="probes go on")
    assert monitoring.processes["worker"].poll() is monitoring.processes["beat"].poll() is None
    # One line for each that is away, not one a second.
    for name in ("worker", "beat"):
        text = (monitoring.home / f"{name}.log").read_text()
        assert text.count("Traceback") <= 2, text[-4000:]


def test_breaker_transitions_are_stored_within_seconds(monitoring: Monitoring) -> None:
    border = Border(keys.wire(), lambda metric, name: None)
    told = BreakerTransition("covenant", "w1", "closed", "open", time.time(), "r")
    monitoring.client.xadd(BREAKER_TRANSITIONS, {"m": border.close(told, BREAKER_TRANSITIONS)})
    until(lambda: ["w1", "open"] in monitoring.history()[1], 8, every=0.5, what="the transition is stored")


def test_processes_show_life_by_working_and_end_cleanly(monitoring: Monitoring) -> None:
    names = ("worker", "beat")

    def alive() -> set[str]:
        return {name for name in names if monitoring.client.ttl(HEARTBEAT_PREFIX + name) > 0}

    until(lambda: alive() == set(names), 10, what="heartbeats")
    assert all(monitoring.client.ttl(HEARTBEAT_PREFIX + name) <= 10 for name in names)
    for name in names:
        monitoring.processes[name].send_signal(signal.SIGSTOP)
    until(lambda: not alive(), 15, what="hanging processes go stale")
    for name in names:
        monitoring.processes[name].send_signal(signal.SIGCONT)
    until(lambda: alive() == set(names), 10, what="they are back")
    for name in names:
        start = time.monotonic()
        assert monitoring.kill(name, signal.SIGTERM) == 0
        assert time.monotonic() - start < patient(10)


def _without_error(call: Any) -> Any:
    try:
        return call()
    except redis.RedisError:
        return None


@pytest.mark.fleet
@pytest.mark.solo
def test_every_gateway_worker_takes_an_unhealthy_instance_for_unfit_within_a_second(fleet: Fleet) -> None:
    headers = {"X-API-Key": fleet.credentials["demo_api_key"]}
    client = redis.Redis.from_url(fleet.redis_url, decode_responses=True)
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(HEALTH_CHANNEL)
    channel.get_message(timeout=5)

    def verdict(state: str) -> float:
        def heard() -> float:
            message = channel.get_message(timeout=0.05)
            news = said(message["data"]) if message else {}
            return float(news["at"]) if (news.get("instance"), news.get("state")) == ("mint/mint-1", state) else 0.0

        return until(heard, 20, every=0, what=f"mint is {state}")

    def ask() -> requests.Response:
        return requests.get(f"{fleet.gateway}/mint/v1/accounts", headers=headers, timeout=5)

    def noticed() -> bool:
        """Whether every worker knows that none of mint's instances is fit."""
        reports = client.hgetall(BREAKER_STATE).items()
        return all(said(text)["panic"] for name, text in reports if name.startswith("mint|"))

    try:
        fleet.ctl("stop", "mint")
        at = verdict("unhealthy")
        until(noticed, 1.0 - (time.time() - at), what="mint's instance taken for unfit")
    finally:
        fleet.ctl("start", "mint")
    verdict("healthy")
    until(lambda: ask().status_code == 200, 15, what="mint is back")
