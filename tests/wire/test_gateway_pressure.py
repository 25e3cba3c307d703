"""Many clients at once that hold, drop or dribble: each costs what its bytes weigh, and gives it all back."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apps.gateway.core import config
from apps.gateway.core.headers import MAX_HEAD
from tests.waiting import until
from tests.wire.gateway import Gateway, Wire, running
from tests.wire.test_gateway_framing import rss

MANY = 60
HEAD = b"POST /open/echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        found.publish(routes=(config.Route("open", "up", "/open", auth=(), timeout=60.0, idle_timeout=60.0),))
        yield found
        assert "Traceback" not in found.logs() and "fault" not in found.logs()


def held(gateway: Gateway) -> int:
    """Sockets that the one worker holds."""
    links = Path(f"/proc/{gateway.worker_pids()[0]}/fd").iterdir()
    found = 0
    for link in links:
        with contextlib.suppress(OSError):
            found += "socket:" in str(link.readlink())
    return found


def pour(wire: Wire, data: bytes, piece: int) -> None:
    with contextlib.suppress(OSError):
        for at in range(0, len(data), piece):
            wire.raw(data[at : at + piece])


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        (HEAD + b"X: " + b"y" * 60_000, 100_000),
        (HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(6000))[:60_000], 100_000),
        (b"\r\n" * 30_000, 100_000),
        (CHUNKED + b"2\r\nxy\r\n" * 20_000, 100_000),
        (CHUNKED + b"2;a=b\r\nxy\r\n" * 9000, 100_000),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 10_000, 100_000),
        (CHUNKED + b"0" * 15 + b"1;" + b"a" * 60_000, 100_000),
        (HEAD + b"Content-Length: 60000\r\n\r\n" + b"xy" * 4000, 2),
    ],
    ids=[
        "value",
        "fields",
        "blank",
        "2-byte chunks",
        "extensions",
        "trailers",
        "extension",
        "segments",
    ],
)
def test_what_a_client_has_half_sent_weighs_no_more_than_it_is(gateway: Gateway, data: bytes, piece: int) -> None:
    before, sockets = rss(gateway.worker_pids()[0]), held(gateway)
    clients = [gateway.connect(20) for _ in range(MANY)]
    try:
        senders = [threading.Thread(target=pour, args=(client, data, piece)) for client in clients]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert gateway.get("/-/health").status == 200
        assert rss(gateway.worker_pids()[0]) - before < MANY * 3 * MAX_HEAD + 10_000_000
    finally:
        for client in clients:
            client.close()
    until(lambda: held(gateway) <= sockets + 2, 10, what="all of them let go")


def test_answers_that_nobody_reads_weigh_a_buffer_each(gateway: Gateway) -> None:
    before, sockets = rss(gateway.worker_pids()[0]), held(gateway)
    clients = [gateway.connect(20) for _ in range(MANY)]
    try:
        for client in clients:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.raw(b"GET /open/bytes/20000000 HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for client in clients:
            assert client.more()
        assert gateway.get("/-/health").status == 200
        assert rss(gateway.worker_pids()[0]) - before < MANY * 600_000
    finally:
        for client in clients:
            client.close()
    until(lambda: held(gateway) <= sockets + 2, 10, what="all of them let go")


@pytest.mark.parametrize("whose", ["client", "instance"])
def test_a_body_in_single_bytes_keeps_nobody_else_waiting(gateway: Gateway, whose: str) -> None:
    """What takes long to read is read a piece at a time, with everybody else's in between."""
    bytes_each = b"1\r\nx\r\n" * 1_500_000
    with contextlib.closing(gateway.connect(60)) as client, contextlib.closing(gateway.connect(60)) as other:
        if whose == "client":
            work = threading.Thread(target=pour, args=(client, CHUNKED + bytes_each, 1_000_000))
        else:
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            (gateway.folder / "one.answer").write_bytes(head + bytes_each + b"0\r\n\r\n")
            client.raw(b"GET /open/raw HTTP/1.0\r\nHost: a\r\n\r\n")
            work = threading.Thread(target=client.skip, args=(1_500_000,))
        work.start()
        waits = []
        while work.is_alive():
            started = time.monotonic()
            other.send("GET /-/health HTTP/1.1", "Host: a")
            assert other.read().status == 200
            waits.append(time.monotonic() - started)
        work.join()
        assert len(waits) > 4, waits  # read without a pause, it would be two


STAGES: list[tuple[bytes, Callable[[Wire], object]]] = [
    (b"", lambda wire: None),
    (b"\r\n", lambda wire: None),
    (b"GET /open/x HT", lambda wire: None),
    (HEAD + b"Content-Length: 5\r\n\r\nhe", lambda wire: None),
    (HEAD + b"Content-Length: 300000\r\n\r\n" + b"x" * 200_000, lambda wire: None),
    (HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", lambda wire: wire.more()),
    (CHUNKED + b"5\r\nhe", lambda wire: None),
    (b"GET /open/hang HTTP/1.1\r\nHost: a\r\n\r\n", lambda wire: None),
    (b"GET /open/hang HTTP/1.1\r\nHost: a\r\n\r\nGET /open/x HTTP/1.1\r\nHost: a\r\n\r\nGET /", lambda wire: None),
    (b"GET /open/bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n", lambda wire: wire.more()),
    (b"GET /open/chunks/1000 HTTP/1.1\r\nHost: a\r\n\r\n", lambda wire: wire.more()),
    (b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n", lambda wire: wire.read()),
    (b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n\x00", lambda wire: wire.read()),
]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_goes_at_any_moment_leaves_nothing_behind(gateway: Gateway, how: str) -> None:
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), timeout=2.0),))
    sockets = held(gateway)
    for data, wait in STAGES * 2:
        with contextlib.closing(gateway.connect()) as client:
            client.raw(data)
            wait(client)
            if how == "reset":
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how == "half":
                client.sock.shutdown(socket.SHUT_WR)
                assert client.closed(10), data
        assert gateway.get("/open/x").body == b"one"
    until(lambda: held(gateway) <= sockets + 3, 10, what="all of them let go")


def test_a_request_under_way_ends_as_it_began_though_its_service_is_gone(gateway: Gateway) -> None:
    """Its body half sent, its answer waited for, its answer half read: whatever is published meanwhile."""
    kept = gateway.document
    with contextlib.ExitStack() as stack:
        up, waiting, down = (stack.enter_context(contextlib.closing(gateway.connect(20))) for _ in range(3))
        up.raw(HEAD + b"Content-Length: 200000\r\n\r\n" + b"x" * 100_000)
        waiting.raw(b"GET /open/slow/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        down.raw(b"GET /open/bytes/8000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert down.more()
        until(lambda: {"/slow/1"} <= set(gateway.seen()["seen"]), what="the one that waits")
        gateway.publish(services=(), routes=())
        try:
            up.raw(b"x" * 100_000)
            assert len(up.read().json()["body"]) == 200_000
            assert waiting.read().body == b"slept"
            assert len(down.read().body) == 8_000_000
            for client in (up, waiting, down):
                client.raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.read().failure == "no_route"
        finally:
            gateway.publish(services=kept.services, routes=kept.routes)
