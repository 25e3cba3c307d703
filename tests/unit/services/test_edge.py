"""The limits of an exchange, against a bare ASGI application."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from services.kit.auth import FleetOnly
from services.kit.checks import Check, Unwell
from services.kit.edge import MAX_SECONDS, Limits, remaining
from services.kit.health import KEEP, Health
from services.kit.settings import Settings
from tests.signed import KEYS


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    body = json.dumps({"size": len(message["body"]), "remaining": remaining()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def ask(
    app: Any, *parts: bytes, headers: dict[str, str] | None = None, path: str = "/v1", hang: bool = False
) -> Any:
    queue = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if not hang:
        queue.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        if queue:
            return queue.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    await app({"type": "http", "path": path, "headers": raw, "method": "POST"}, receive, send)
    return (sent[0]["status"], json.loads(sent[1]["body"])) if sent else None


async def test_a_body_arrives_whole() -> None:
    assert (await ask(Limits(echo), b"ab", b"", b"cd"))[1]["size"] == 4


async def test_a_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    app = Limits(echo, max_body=10)
    assert (await ask(app, b"x" * 10))[0] == 200
    assert (await ask(app, b"x" * 6, b"x" * 5, hang=True))[0] == 413
    assert (await ask(app, headers={"Content-Length": "11"}, hang=True))[0] == 413
    assert (await ask(app, b"x", headers={"Content-Length": "9" * 400}))[0] == 413


async def test_a_body_that_does_not_arrive_is_408() -> None:
    status, problem = await ask(Limits(echo, body_seconds=0.05), b"x", hang=True)
    assert (status, problem["failure"]) == (408, "body_timeout")


async def test_a_client_that_hangs_up_is_not_answered() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    await Limits(echo)({"type": "http", "path": "/", "headers": []}, receive, send)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("2000", 1.9, 2.0), ("999999", 14.9, MAX_SECONDS), ("soon", 14.9, MAX_SECONDS), ("-5", 14.9, MAX_SECONDS),
     ("9" * 30, 14.9, MAX_SECONDS)],
)  # fmt: skip
async def test_the_callers_deadline_is_kept_within_bounds(header: str, least: float, most: float) -> None:
    _, body = await ask(Limits(echo), headers={"X-Request-Timeout-Ms": header})
    assert least <= body["remaining"] <= most
    assert remaining() == MAX_SECONDS, "outside of a request there is no deadline"


async def test_a_deadline_that_has_passed_is_504() -> None:
    status, problem = await ask(Limits(echo), headers={"X-Request-Timeout-Ms": "0"})
    assert (status, problem["failure"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/.well-known/jwks.json"])
async def test_open_paths_need_no_token(path: str) -> None:
    assert (await ask(FleetOnly(echo, "secret"), path=path))[0] == 200


@pytest.mark.parametrize("path", ["/", "/v1/token", "/healthy", "/health/", "//health", "/.well-known", "/HEALTH"])
async def test_every_other_path_does(path: str) -> None:
    assert (await ask(FleetOnly(echo, "secret"), path=path))[0] == 401
    assert (await ask(FleetOnly(echo, "secret"), path=path, headers={"X-Fleet-Token": "secret"}))[0] == 200


async def test_health_runs_each_check_once_a_second_and_waits_for_none_too_long() -> None:
    calls = 0

    async def counted() -> None:
        nonlocal calls
        calls += 1

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def broken() -> None:
        raise Unwell("the disk is gone")

    settings = Settings("tester", "127.0.0.1", 1, "tester-1", Path(), "", {}, "", "", "", "INFO", "secret", KEYS)
    health = Health(settings, [Check("fine", counted), Check("side", stuck, critical=False, timeout=0.05)])
    answers = await asyncio.gather(*(health.health() for _ in range(50)))
    assert calls == 1 and KEEP >= 1
    body = json.loads(bytes(answers[0].body))
    assert answers[0].status_code == 200 and body["status"] == "degraded"
    assert body["checks"] == {"fine": "ok", "side": "no answer within 0.05 s"}
    assert (await health.ready()).status_code == 503, "it has not started"
    health.started = True
    assert (await health.ready()).status_code == 200
    health.draining = True
    assert json.loads(bytes((await health.ready()).body))["failure"] == "draining"
    ill = Health(settings, [Check("disk", broken)])
    answer = await ill.health()
    assert answer.status_code == 503 and "disk: the disk is gone" in json.loads(bytes(answer.body))["detail"]
