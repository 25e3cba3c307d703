"""Where one message ends and the next begins: no byte of one is ever read as part of another, on either side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.gateway.core import config
from tests.waiting import until
from tests.wire.gateway import Gateway, Wire, running
from tests.wire.test_gateway_framing import rss

HOST = b"Host: a\r\n"
OFFER = b"Connection: Upgrade\r\nUpgrade: elsewhere\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Consumer: admin\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        # Many answers below are bad, and each is to be seen by itself.
        found.publish(services=found.service(breaker=config.Breaker(override="closed")))
        yield found


@pytest.fixture
def connection(gateway: Gateway) -> Iterator[Wire]:
    with contextlib.closing(gateway.connect()) as found:
        yield found


# -- an offer to switch protocols (RFC 9110 section 7.8) ------------------------------------------------


def test_the_body_of_a_request_that_offers_an_upgrade_goes_up_whole(connection: Wire) -> None:
    connection.raw(b"POST /open/echo HTTP/1.1\r\n" + HOST + OFFER + b"Content-Length: 5\r\n\r\nhello")
    assert connection.read().json()["body"] == "hello"
    connection.raw(b"POST /open/echo HTTP/1.1\r\n" + HOST + OFFER + b"Transfer-Encoding: chunked\r\n\r\n")
    connection.raw(b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n")
    assert connection.read().json()["body"] == "hello, world"
    connection.raw(b"GET /open/echo/after HTTP/1.1\r\n" + HOST + OFFER + b"\r\n")
    assert connection.read().json()["url"] == "/echo/after"


def test_the_body_of_an_upgrade_is_never_the_next_request(gateway: Gateway, connection: Wire) -> None:
    inner = b"GET /open/inner HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /open/echo HTTP/1.1\r\n" + HOST + OFFER + b"Content-Length: %d\r\n\r\n"
    connection.raw(head % len(inner) + inner)
    assert connection.read().json()["body"] == inner.decode()
    connection.raw(b"GET /open/echo/own HTTP/1.1\r\n" + HOST + b"\r\n")
    assert connection.read().json()["url"] == "/echo/own"
    assert "/inner" not in gateway.seen()["seen"]


def test_an_upstream_that_answers_early_is_not_left_waiting_for_the_body_with_others_requests(
    gateway: Gateway,
) -> None:
    """Were the upgrade's body taken for a request, the head's Content-Length would swallow the next request's
    head on the kept upstream connection, and its body, which nobody has looked at, would be read as a request."""
    filler = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".ljust(400, b"x")
    for _ in range(4):
        with contextlib.closing(gateway.connect()) as attacker:
            attacker.raw(b"POST /open/early HTTP/1.1\r\n" + HOST + OFFER + b"Content-Length: 400\r\n\r\n" + filler)
            assert attacker.read().body == b"early"
        for pad in range(0, 200, 20):
            with contextlib.closing(gateway.connect()) as attacker:
                body = b" " * pad + SMUGGLED * 4
                attacker.raw(b"POST /open/echo HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                answer = attacker.read()
                assert answer.status == 200 and len(answer.json()["body"]) == len(body)
    assert "/smuggled" not in gateway.seen()["seen"]
    assert gateway.get("/open/echo/victim").json()["url"] == "/echo/victim"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("offer", [b"websocket", b"WebSocket", b"elsewhere, websocket/13"])
def test_a_websocket_with_a_body_is_501_and_its_body_is_its_own(connection: Wire, framing: bytes, offer: bytes) -> None:
    for _ in range(3):
        connection.raw(b"POST /open/x HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: " + offer + b"\r\n")
        connection.raw(framing)
        assert connection.read().failure == "upgrade_unsupported"


def test_what_follows_connect_is_never_read_as_a_request(gateway: Gateway, connection: Wire) -> None:
    connection.raw(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\nGET /open/tunnelled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.read().failure == "connect_unsupported"
    assert connection.closed()
    assert "/tunnelled" not in gateway.seen()["seen"]


# -- bytes behind a good request ------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/open/x", b"/-/health", b"/nowhere"])
@pytest.mark.parametrize(
    "garbage", [b"\x00", b"\x00" * 1000, b"SSH-2.0-x\r\n", b"GET /open/x HTTP/1.1\r\nBad Name: x\r\n\r\n"]
)
def test_garbage_behind_a_good_request_is_400_after_the_good_answer(
    connection: Wire, path: bytes, garbage: bytes
) -> None:
    connection.raw(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n" + garbage)
    assert connection.read().status == (404 if path == b"/nowhere" else 200)
    assert connection.read().failure == "framing"
    assert connection.closed()


@pytest.mark.parametrize(
    "first",
    [
        b"GET /open/echo/first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /open/echo/first HTTP/1.0\r\n\r\n",
        b"POST /open/echo/first HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_nothing_is_served_behind_a_request_that_ends_its_connection(
    gateway: Gateway, connection: Wire, first: bytes
) -> None:
    connection.raw(first + b"GET /open/behind HTTP/1.1\r\nHost: a\r\n\r\n" + b"x" * 100)
    assert connection.read().json()["url"] == "/echo/first"
    assert connection.closed()
    assert "/behind" not in gateway.seen()["seen"]


# -- what is not body is bounded ------------------------------------------------------------------------


def pour(connection: Wire, block: bytes, size: int = 40_000_000) -> None:
    """Send up to ``size`` bytes, until the gateway has enough."""
    connection.sock.settimeout(2)
    with contextlib.suppress(OSError):
        for _ in range(size // len(block)):
            connection.raw(block)
    connection.sock.settimeout(5)


def grown(gateway: Gateway, before: int) -> int:
    return rss(gateway.worker_pids()[0]) - before


@pytest.mark.parametrize(
    ("start", "block"),
    [
        (b"0\r\nX-Trailer: ", b"y" * 65_536),
        (b"0\r\n", b"X-Trailer: y\r\n" * 5000),
        (b"5;extension=", b"y" * 65_536),
        (b"", b"1" + b";x=" + b"y" * 1000 + b"\r\nz\r\n"),
    ],
)
def test_trailers_and_chunk_extensions_are_bounded(
    gateway: Gateway, connection: Wire, start: bytes, block: bytes
) -> None:
    before = rss(gateway.worker_pids()[0])
    connection.raw(b"POST /open/echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + start)
    pour(connection, block)
    assert grown(gateway, before) < 10_000_000
    with contextlib.suppress(ConnectionError):  # the gateway may have given up reading what goes on and on
        assert connection.read().failure == "headers_too_large"
    assert connection.closed()


def test_a_pipelined_head_is_bounded_while_the_first_request_waits(gateway: Gateway, connection: Wire) -> None:
    before = rss(gateway.worker_pids()[0])
    connection.raw(b"GET /open/slow/1.5 HTTP/1.1\r\n" + HOST + b"\r\nGET /open/x HTTP/1.1\r\n" + HOST)
    pour(connection, b"".join(b"X-%d: y\r\n" % number for number in range(5000)))
    assert grown(gateway, before) < 10_000_000
    with contextlib.suppress(ConnectionError):
        assert connection.read().body == b"slept"
        assert connection.read().status == 431
    assert connection.closed()


def test_pipelined_requests_behind_a_slow_one_wait_on_the_wire(gateway: Gateway, connection: Wire) -> None:
    before = rss(gateway.worker_pids()[0])
    connection.raw(b"GET /open/slow/1 HTTP/1.1\r\n" + HOST + b"\r\n")
    pour(connection, b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
    assert grown(gateway, before) < 10_000_000
    assert connection.read().body == b"slept"
    assert {connection.read().status for _ in range(1000)} == {404}


# -- answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\n\r\n",
            200,
            b"hello",
        ),
        (b"HTTP/1.1 426 Upgrade\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nno", 426, b"no"),
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 502, None),
        (b"HTTP/1.1 204 None\r\nContent-Length: 3\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502, None),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            502,
            None,
        ),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 502, None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3000 + b"Content-Length: 0\r\n\r\n", 502, None),
        (b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" * 9000, 502, None),
    ],
)
def test_an_answer_is_read_by_its_own_framing_or_refused(
    gateway: Gateway, answer: bytes, status: int, body: bytes | None
) -> None:
    (gateway.folder / "one.answer").write_bytes(answer)
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/raw HTTP/1.1", "Host: a")
        read = connection.read()
        while read.status == 103:
            read = connection.read()
        assert read.status == status
        assert read.failure == "upstream_protocol_error" if body is None else read.body == body
    assert gateway.get("/open/echo/next").json()["url"] == "/echo/next"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: " + b"y" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"y" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    ],
)
def test_an_answer_that_goes_astray_in_its_body_is_cut_short(gateway: Gateway, answer: bytes) -> None:
    (gateway.folder / "one.answer").write_bytes(answer)
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/raw HTTP/1.1", "Host: a")
        try:
            assert connection.read().failure == "upstream_protocol_error"
        except (EOFError, ConnectionError):
            pass  # its head had gone to the client already


def test_bytes_behind_an_answer_cost_the_connection_and_never_the_next_request(gateway: Gateway) -> None:
    (gateway.folder / "one.answer").write_bytes(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    )
    for _ in range(5):
        assert gateway.get("/open/raw").body == b"ok"
        assert gateway.get("/open/echo/next").json()["url"] == "/echo/next"


def test_every_connection_is_reaped_in_the_end(gateway: Gateway) -> None:
    def open_connections() -> int:
        pid = gateway.worker_pids()[0]
        return sum(
            link.is_symlink() and "socket:" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()
        )

    before = open_connections()
    held = []
    for tail in (b"\x00", b"GET / HT", b"\r\n"):
        held.append(gateway.connect())
        held[-1].raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n" + tail)
    for connection in held[:1]:
        assert connection.read().status == 200
        assert connection.closed()
    for connection in held:
        connection.close()
    until(lambda: open_connections() <= before + 1, 5, what="connections to be closed")
