"""Slow, silent and many peers of the control process, by raw sockets: each costs a bounded while, nobody else waits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from missioncontrol.deadlines import SECONDS, UNREAD_S, Watch, overdue
from tests.control import Control, controlled
from tests.waiting import patient, until

GRACE = 15.0
"""Seconds that a busy machine may be late."""
MOST = 40


@pytest.fixture(scope="module")
def control(redis_process: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with controlled(tmp_path_factory.mktemp("home"), redis_process, MC_CONTROL_CONNECTIONS=str(MOST)) as made:
        made.start()
        yield made


async def drip(control: Control, start: bytes, byte: bytes) -> tuple[float, bytes]:
    """Send ``start`` and then a byte a second until it is cut; how long that took, and what was said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", control.port)
    began = time.monotonic()
    writer.write(start)
    heard = asyncio.create_task(reader.read())
    with contextlib.suppress(OSError):
        while not heard.done():
            writer.write(byte)
            await writer.drain()
            await asyncio.wait([heard], timeout=1)
    writer.close()
    return time.monotonic() - began, await heard


POST = b"POST /api/v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def test_a_head_or_body_that_drips_is_cut_and_told_so(control: Control) -> None:
    tries = {
        "first line": (b"GET /heal", b"t", SECONDS["head"]),
        "head": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"a", SECONDS["head"]),
        "the second head": (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nX-Slow: ",
            b"a",
            10,
        ),
        "body": (POST + b"Content-Length: 1000\r\n\r\n{", b" ", SECONDS["body"]),
        "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", SECONDS["body"]),
        "WebSocket handshake": (
            b"GET /ws/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nX-Slow: ",
            b"a",
            10,
        ),
    }
    found = await asyncio.gather(*(drip(control, start, byte) for start, byte, _ in tries.values()))
    for (name, (_, _, limit)), (took, answer) in zip(tries.items(), found, strict=True):
        assert limit - 2 < took < limit + patient(GRACE), f"{name} was cut after {took:.1f} s"
        assert b"HTTP/1.1 408 " in answer and b'"request_timeout"' in answer, f"{name}: {answer!r}"


def test_others_are_served_while_many_drip(control: Control) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MOST // 2):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", control.port), 5))
            peer.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
        assert control.ask("GET", "/health").status_code == 200


def test_connections_are_bounded_and_come_free_again(control: Control) -> None:
    def refused() -> bool:
        with socket.create_connection(("127.0.0.1", control.port), 5) as peer:
            peer.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                return b"503" in peer.recv(1000)
            return False

    with contextlib.ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(socket.create_connection(("127.0.0.1", control.port), 5))
        until(refused, 10, what="refusal of one connection too many")
    until(lambda: control.ask("GET", "/health").status_code == 200, 20, what="room again")


def test_each_state_has_its_end() -> None:
    for state, seconds in SECONDS.items():
        assert not overdue(state, seconds, 0) and overdue(state, seconds + 1, 0)
    assert not overdue("work", 1e6, UNREAD_S) and overdue("work", 0, UNREAD_S + 1)


def test_a_busy_connection_is_never_taken_for_one_slow_head() -> None:
    watch = Watch(0.0)
    assert not any(watch.look("head", object(), False, float(now)) for now in range(100))
    head = object()
    looks = [watch.look("head", head, False, 100.0 + now) for now in range(13)]
    assert looks == [False] * 11 + [True] * 2


def test_an_answer_that_is_read_again_begins_a_new_wait() -> None:
    watch = Watch(0.0)
    assert not watch.look("work", None, True, 0.0) and not watch.look("work", None, True, UNREAD_S)
    assert not watch.look("work", None, False, UNREAD_S + 1) and not watch.look("work", None, True, UNREAD_S + 2)
    assert watch.look("work", None, True, 3 * UNREAD_S)
