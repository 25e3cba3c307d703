from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.kit import edge
from services.kit.client import ATTEMPTS, Answer, Client, DependencyFailed
from services.kit.settings import Settings
from tests.signed import KEYS
from tests.unit.services.switchboard import Switchboard, problem
from tests.waiting import free_port, patient


@pytest.fixture
def board() -> Iterator[Switchboard]:
    with Switchboard("token") as made:
        yield made


def settings(gateway: str) -> Settings:
    return Settings("tester", "127.0.0.1", 1, "tester-1", Path(), "", {}, "", "", gateway, "INFO", "token", KEYS)


@pytest.fixture
async def client(board: Switchboard) -> AsyncIterator[Client]:
    made = Client(settings(board.url), "mc_key")
    await made.start()
    yield made
    await made.stop()


def always(make: Callable[[], web.Response]) -> Callable[[web.Request], web.Response | None]:
    return lambda _request: make()


def ok() -> web.Response:
    return web.json_response({"fine": True})


@pytest.mark.parametrize(
    ("call", "make", "attempts", "failure", "retry_after"),
    [
        ("get", lambda: problem(503, "breaker_open", **{"Retry-After": "5"}), 1, "breaker_open", 5),
        ("get", lambda: problem(503, "no_healthy_upstream"), ATTEMPTS, "no_healthy_upstream", 1),
        ("get", lambda: problem(429, "rate_limited", **{"Retry-After": "0"}), ATTEMPTS, "rate_limited", 0),
        ("post", lambda: problem(502, "upstream_reset"), 1, "upstream_reset", 1),
        ("keyed", lambda: problem(502, "upstream_reset"), ATTEMPTS, "upstream_reset", 1),
        ("get", lambda: problem(500, "internal_error"), 1, "internal_error", 1),
        ("get", lambda: problem(401, "key_expired"), 1, "key_expired", 1),
        ("get", lambda: web.Response(status=504, text="<html>"), ATTEMPTS, "http_504", 1),
        ("get", lambda: web.Response(text="not json"), ATTEMPTS, "broken_response", 1),
        ("get", lambda: web.json_response([1]), ATTEMPTS, "broken_response", 1),
    ],
)
async def test_failures_are_named_and_tried_again_only_when_that_is_harmless(
    board: Switchboard, client: Client, call: str, make: Any, attempts: int, failure: str, retry_after: int
) -> None:
    board.fault = always(make)
    with pytest.raises(DependencyFailed) as caught:
        if call == "get":
            await client.get("covenant", "/v1/head")
        else:
            await client.post("covenant", "/v1/transactions", {}, "key" if call == "keyed" else "")
    assert len(board.seen) == attempts
    assert caught.value.failure == failure
    assert caught.value.problem.retry_after == retry_after
    assert caught.value.problem.status == 503
    assert caught.value.problem.headers == {"X-Failed-Dependency": "covenant"}


@pytest.mark.parametrize("status", [200, 201, 404, 409, 422])
async def test_an_answer_below_500_is_the_callers_to_judge(board: Switchboard, client: Client, status: int) -> None:
    board.fault = always(lambda: web.json_response({"a": 1}, status=status))
    answer = await client.post("covenant", "/v1/transactions", {})
    assert isinstance(answer, Answer) and (answer.status, answer.body) == (status, {"a": 1})
    assert len(board.seen) == 1


async def test_a_short_wait_is_waited_out(board: Switchboard, client: Client) -> None:
    answers = iter([problem(503, "no_healthy_upstream", **{"Retry-After": "0"}), ok()])
    board.fault = lambda _request: next(answers)
    assert (await client.get("mint", "/v1/accounts")).body == {"fine": True}


async def test_the_deadline_travels_and_bounds_all_attempts_together(board: Switchboard, client: Client) -> None:
    board.fault = always(lambda: problem(503, "no_healthy_upstream"))
    edge.deadline.set(time.monotonic() + 0.05)
    began = time.monotonic()
    with pytest.raises(DependencyFailed):
        await client.get("mint", "/v1/accounts")
    assert time.monotonic() - began < patient(1)
    assert all(int(headers["X-Request-Timeout-Ms"]) <= 50 for _, _, headers in board.seen)
    edge.deadline.set(time.monotonic() - 1)
    seen = len(board.seen)
    with pytest.raises(DependencyFailed, match="deadline"):
        await client.get("mint", "/v1/accounts")
    assert len(board.seen) == seen, "nothing is sent once it is too late"


async def test_a_silent_dependency_is_given_up_on_in_time(board: Switchboard, client: Client) -> None:
    def hang(_request: web.Request) -> web.Response:
        time.sleep(0.6)
        return ok()

    board.fault = hang
    edge.deadline.set(time.monotonic() + 0.3)
    with pytest.raises(DependencyFailed) as caught:
        await client.post("covenant", "/v1/transactions", {})
    assert caught.value.failure == "timeout"


async def test_an_absent_gateway_is_said_so() -> None:
    made = Client(settings(f"http://127.0.0.1:{free_port()}"), "mc_key")
    await made.start()
    try:
        with pytest.raises(DependencyFailed) as caught:
            await made.get("covenant", "/v1/head")
    finally:
        await made.stop()
    assert caught.value.failure == "gateway_unreachable"
