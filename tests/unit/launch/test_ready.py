from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import redis

from missioncontrol.launch import ready
from missioncontrol.launch.processes import SERVICES, Heartbeat, Http, Ping, Process
from services.kit import env
from services.kit.seal import Seal, place
from tests.redis_server import admin_url
from tests.serving import serving
from tests.waiting import free_port, patient


class Handler(BaseHTTPRequestHandler):
    """Not ready, with a reason, until the server's ``answers`` run out."""

    def do_GET(self) -> None:
        refusals = self.server.refusals  # type: ignore[attr-defined]
        status, body = refusals.pop() if refusals else (200, {"status": "ok"})
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def sealed(purpose: str, message: dict[str, object]) -> bytes:
    return Seal(env.secret("MC_WIRE_KEY")).close(purpose, json.dumps(message).encode(), time.time())


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.refusals = []  # type: ignore[attr-defined]
    with serving(server):
        yield server


def http(server: HTTPServer) -> Process:
    return Process("web", ("web",), 50, Http(f"http://127.0.0.1:{server.server_port}/ready"))


def test_the_reason_in_a_problem_document_is_told(server: HTTPServer) -> None:
    server.refusals = [(503, {"detail": "Migrations wait."})]  # type: ignore[attr-defined]
    assert ready.ask(http(server), "", 0) == ready.Answer(http(server), False, "answered 503: Migrations wait.")
    assert ready.ask(http(server), "", 0).ready


def test_nobody_listening_is_told() -> None:
    process = Process("web", ("web",), 50, Http(f"http://127.0.0.1:{free_port()}/ready"))
    assert ready.ask(process, "", 0).reason == "connection refused"


def test_waiting_goes_on_until_ready(server: HTTPServer) -> None:
    server.refusals = [(503, {}), (503, {})]  # type: ignore[attr-defined]
    seen: list[Process] = []
    assert ready.wait_for([http(server)], "", 0, 5, seen.append, set) == []
    assert seen == [http(server)]


def test_waiting_ends_when_one_is_hopeless() -> None:
    process = Process("web", ("web",), 50, Http(f"http://127.0.0.1:{free_port()}/ready"))
    began = time.monotonic()
    late = ready.wait_for([process], "", 0, 60, lambda _: None, lambda: {"web"})
    assert [answer.process.name for answer in late] == ["web"]
    assert time.monotonic() - began < patient(5)


def test_redis_answers_ping_and_a_heartbeat_of_a_former_run_does_not_count(redis_url: str) -> None:
    assert ready.ask(Process("redis", (), 10, Ping()), redis_url, 0).ready
    beat = Process("beat", (), 30, Heartbeat("beat"))
    assert not ready.ask(beat, redis_url, 0).ready
    with redis.Redis.from_url(redis_url) as client:
        client.set("mc:alive:beat", json.dumps({"at": 2000.0, "pid": 1}))
        assert not ready.ask(beat, redis_url, 999).ready, "anybody may have said that"
        client.set("mc:alive:beat", sealed("mc:alive:beat", {"at": 1000.0, "pid": 1}))
    assert ready.ask(beat, redis_url, 999).ready
    assert not ready.ask(beat, redis_url, 1001).ready


def test_a_password_and_a_database_of_the_url_are_used(redis_url: str) -> None:
    with redis.Redis.from_url(admin_url(redis_url)) as client:
        client.acl_setuser("probe", enabled=True, passwords=["+s3cret!"], keys="*", commands=["+@all"])
        client.select(3)
        client.set("mc:alive:relay", "in three")
    address = redis_url.rpartition("@")[2].removesuffix("/0")
    url = f"redis://probe:s3cret%21@{address}/3"
    assert ready.redis_command(url, "GET", "mc:alive:relay") == "in three"
    with pytest.raises(OSError, match="WRONGPASS"):
        ready.redis_command(f"redis://probe:wrong@{address}/3", "PING")
    with redis.Redis.from_url(admin_url(redis_url)) as client:
        client.acl_deluser("probe")


def test_instances_out_of_rotation_are_read_from_the_last_verdicts(redis_url: str) -> None:
    assert ready.out_of_rotation(redis_url) == []
    with redis.Redis.from_url(redis_url) as client:
        for name, state in (("nexus/nexus-1", "unhealthy"), ("mint/mint-1", "healthy")):
            client.hset("mc:health:state", name, sealed(place("mc:health:state", name), {"state": state}))
        client.hset("mc:health:state", "aegis/aegis-1", json.dumps({"state": "unhealthy"}))
    assert ready.out_of_rotation(redis_url) == ["nexus/nexus-1"]
    assert ready.out_of_rotation(f"redis://127.0.0.1:{free_port()}/0") == []


def test_a_demo_service_that_is_late_is_waited_for_a_little_and_hopeless_ones_not_at_all(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "DEMO_SECONDS", 0.5)
    nobody = Http(f"http://127.0.0.1:{free_port()}/ready")
    late, broken = Process("nexus", (), SERVICES, nobody), Process("mint", (), SERVICES, nobody)
    seen: list[Process] = []
    began = time.monotonic()
    answers = ready.wait_for([http(server), late, broken], "", 0, 60, seen.append, lambda: {"mint"})
    assert {answer.process for answer in answers} == {late, broken}
    assert seen == [http(server)]
    assert time.monotonic() - began < patient(10)
