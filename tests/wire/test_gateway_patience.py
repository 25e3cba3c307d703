"""Slow clients, and connections that end at a bad moment: each costs itself, and nothing is held for long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from apps.gateway.core import config
from tests.waiting import patient, until
from tests.wire.gateway import Gateway, Wire, running

SLOW = config.Route("open", "up", "/open", auth=(), idle_timeout=1.0, timeout=5.0)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        found.publish(routes=(SLOW,), services=found.service(idle_connections=20))
        yield found


def drip(connection: Wire, pieces: Iterator[bytes]) -> bool:
    """Send one more piece; False when the gateway has had enough."""
    try:
        connection.raw(next(pieces))
    except OSError:
        return False
    return True


def readable(connection: Wire) -> bool:
    connection.sock.settimeout(0.05)
    try:
        return connection.more()
    except TimeoutError:
        return False
    finally:
        connection.sock.settimeout(5)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_byte_now_and_then_does_not_keep_a_body_going(gateway: Gateway, chunked: bool) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000"
        connection.send("POST /open/echo HTTP/1.1", "Host: a", framing)
        pieces = iter([b"1\r\nx\r\n" if chunked else b"x"] * 1000)
        started = time.monotonic()
        until(lambda: readable(connection) or not drip(connection, pieces), 10, what="an end")
        assert connection.read().failure == "request_timeout"
        assert time.monotonic() - started < patient(8)


def test_slow_bodies_take_no_connection_from_others(gateway: Gateway) -> None:
    """Twice as many as the instance has places."""
    slow = [gateway.connect() for _ in range(40)]
    try:
        for connection in slow:
            connection.send("POST /open/echo HTTP/1.1", "Host: a", "Content-Length: 1000")
            connection.raw(b"x")
        for _ in range(5):
            assert gateway.get("/open/echo", method="POST", body=b"quick").status == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_client_that_stops_reading_is_given_up_and_its_upstream_let_go(gateway: Gateway) -> None:
    aborted = gateway.seen()["aborted"]
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/bytes/100000000 HTTP/1.1", "Host: a")
        until(lambda: gateway.seen()["aborted"] > aborted, 15, what="the upstream to be let go")


def test_a_client_that_never_reads_does_not_gather_answers(gateway: Gateway) -> None:
    """Pipelined requests are answered no further than their client reads."""
    with contextlib.closing(gateway.connect()) as connection:
        connection.sock.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(300):
                connection.raw(b"GET /open/bytes/100000 HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        until(lambda: "/bytes/100000" in gateway.seen()["seen"], 5, what="the first of them")
        for _ in range(20):
            assert gateway.get("/open/x").status == 200  # others are served, it is not
        assert gateway.seen()["seen"]["/bytes/100000"] < 200


def test_a_kept_connection_that_ends_is_not_held_against_its_instance(gateway: Gateway) -> None:
    """RFC 9112 section 9.3: a server may close a kept connection whenever it likes."""
    quick = config.Breaker(sliding_window_size=4, minimum_calls=2, failure_rate=0.5)
    gateway.publish(services=gateway.service(breaker=quick, idle_connections=20))
    for _ in range(8):
        assert gateway.get("/open/once").body == b"once"
        # An idempotent request goes again by a new connection, and its client sees nothing of it.
        assert gateway.get("/open/echo/again").json()["url"] == "/echo/again"
        assert gateway.get("/open/once").body == b"once"
        # What may have been acted on does not (RFC 9110 section 9.2.2); the client is told, the breaker is not.
        lost = gateway.get("/open/echo/lost", method="POST", body=b"x")
        assert (lost.status, lost.failure) == (502, "upstream_reset")
        assert gateway.get("/open/echo/after").status == 200
