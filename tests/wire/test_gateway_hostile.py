"""Upstreams that answer badly, at the worst moment, or not at all: each costs its own request and nobody else's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
import threading
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from apps.gateway.core import config
from tests.waiting import until
from tests.wire.gateway import Gateway, Wire, running
from tests.wire.puppets import Puppet, head, puppet

FOREVER = config.Breaker(override="closed")
NEVER = config.Outlier(consecutive_failures=0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        yield found
        assert "Traceback" not in found.logs() and "fault" not in found.logs()


@pytest.fixture
def player() -> Iterator[Puppet]:
    with puppet() as found:
        yield found


@pytest.fixture
def gateway(started: Gateway, player: Puppet) -> Gateway:
    """A gateway before the one instance that the test plays."""
    started.publish(
        services=started.service(instances=(player.instance,), breaker=FOREVER, outlier=NEVER),
        routes=(config.Route("open", "up", "/open", auth=(), timeout=20.0, idle_timeout=1.0),),
    )
    return started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with contextlib.closing(gateway.connect(20)) as found:
        yield found


def turn(gateway: Gateway) -> None:
    """Whatever was sent to the one worker before has been read once this has."""
    assert gateway.get("/-/health").status == 200


def arrived(sock: socket.socket) -> bool:
    """The other side's kernel has all that was sent."""
    (left,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return not left


def pour(wire: Wire, data: bytes) -> None:
    """Send, until the other side has had enough."""
    with contextlib.suppress(OSError):
        wire.raw(data)


# -- a kept connection that ends, or speaks unasked ------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "first"),
    [
        (b"GET", b"HTTP/1.1 204 None\r\nX-Secret: first\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Same\r\nX-Secret: first\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nX-Secret: first\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("second", [b"GET", b"POST"])
def test_the_end_of_a_kept_connection_is_no_answer(
    gateway: Gateway, player: Puppet, client: Wire, method: bytes, first: bytes, second: bytes
) -> None:
    """An answer without a length ends with its connection: only the one that is being read, not the one before."""
    client.raw(method + b" /open/first HTTP/1.1\r\nHost: a\r\n\r\n")
    kept = player.accept(method)
    kept.raw(first)
    assert client.read(method.decode()).fields["x-secret"] == "first"
    with contextlib.closing(gateway.connect()) as other:
        other.raw(second + b" /open/second HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        assert head(kept).startswith(second + b" /second ")
        until(lambda: kept.buffer or kept.more(), what="the body")
        kept.close()
        if second == b"GET":  # goes again, by a new connection
            again = player.accept(second)
            again.raw(OK)
            answer = other.read()
            assert (answer.status, answer.body) == (200, b"ok")
        else:
            answer = other.read()
            assert (answer.status, answer.failure) == (502, "upstream_reset")
        assert "x-secret" not in answer.fields


@pytest.mark.parametrize("second", [b"GET", b"POST"])
def test_what_an_instance_says_before_it_is_asked_answers_nobody(
    gateway: Gateway, player: Puppet, client: Wire, second: bytes
) -> None:
    """As servers do that give up waiting for a next request with a 408: it crosses with that request."""
    client.raw(b"GET /open/first HTTP/1.1\r\nHost: a\r\n\r\n")
    kept = player.accept(b"GET")
    kept.raw(OK)
    assert client.read().body == b"ok"
    worker = gateway.worker_pids()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED, what="the worker stands still")
        client.raw(second + b" /open/second HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        kept.raw(b"HTTP/1.1 408 Too Late\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate")
        kept.sock.shutdown(socket.SHUT_WR)
        until(lambda: arrived(client.sock) and arrived(kept.sock), what="both have arrived")
    finally:
        os.kill(worker, signal.SIGCONT)
    player.accept(second).raw(OK)
    answer = client.read()
    assert (answer.status, answer.body) == (200, b"ok")


def test_a_promise_of_a_body_where_none_may_be_ends_the_connection(
    gateway: Gateway, player: Puppet, client: Wire
) -> None:
    """Of a 204 with a length the body may come later, and would be read as the next answer (RFC 9110 section 8.6)."""
    for promise in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        client.raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
        used = player.accept(b"GET")
        used.raw(b"HTTP/1.1 204 None\r\n" + promise + b"\r\n\r\n")
        assert client.read().status == 204
        assert used.closed(2), "sooner than the pool gives it up"


@pytest.mark.parametrize("later", [False, True])
def test_two_answers_to_one_request_are_one(gateway: Gateway, player: Puppet, client: Wire, later: bool) -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    bare = b"HTTP/1.1 304 Same\r\nContent-Length: 4\r\n\r\n"
    for method, good, more in (
        ("GET", OK, evil),
        ("GET", bare, b"evil"),
        ("HEAD", bare, b"evil"),
        ("HEAD", bare, evil),
    ):
        client.raw(method.encode() + b" /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
        used = player.accept(method.encode())
        used.raw(good if later else good + more)
        assert client.read(method).body == (b"ok" if good is OK else b"")
        if later:
            used.raw(more)
        assert used.closed(2), "sooner than the pool gives it up"
    client.raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
    player.accept(b"GET").raw(OK)
    assert client.read().body == b"ok"


# -- where an answer breaks ------------------------------------------------------------------------------

SIZED = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 9\r\n\r\nnine byte"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nnine\r\n5\r\n byte\r\n0\r\nT: x\r\n\r\n"
HINTED = b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + SIZED


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, HINTED])
def test_an_answer_is_the_same_wherever_it_is_split(
    gateway: Gateway, player: Puppet, client: Wire, answer: bytes
) -> None:
    client.raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
    used = player.accept(b"GET")
    for cut in range(1, len(answer)):
        used.raw(answer[:cut])
        turn(gateway)
        used.raw(answer[cut:])
        read = client.read()
        if read.status == 103:
            read = client.read()
        assert (read.status, read.body) == (200, b"nine byte"), cut
        client.raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
        head(used)


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, HINTED])
def test_an_answer_cut_at_any_byte_is_never_passed_for_whole(gateway: Gateway, player: Puppet, answer: bytes) -> None:
    for cut in range(len(answer)):
        with contextlib.closing(gateway.connect()) as client:
            client.raw(b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            used = player.accept(b"POST")
            used.raw(answer[:cut])
            used.close()
            try:
                read = client.read()
                if read.status == 103:
                    read = client.read()
            except (EOFError, ConnectionError):
                continue
            assert (read.status, read.failure) == (502, "upstream_reset"), cut


# -- answers that can be read in two ways ----------------------------------------------------------------

LENGTHS = [
    b"5,5",
    b"5, 6",
    b"+5",
    b"-5",
    b"0x5",
    b"5 5",
    b"5_0",
    b"",
    b"5;",
    b"\xb2",
    b"9" * 40,
    b"5\r\nContent-Length: 6",
]
CODINGS = [b"xchunked", b"chunked, identity", b"identity", b"chunked;q=1", b"", b"chunked\r\nTransfer-Encoding: gzip"]
TWO_WAYS = [
    *(b"HTTP/1.1 200 OK\r\nContent-Length: " + each + b"\r\n\r\nhello" for each in LENGTHS),
    *(b"HTTP/1.1 304 Same\r\nContent-Length: " + each + b"\r\n\r\n" for each in LENGTHS),
    *(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + each + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" for each in CODINGS),
    b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\rX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nX\xe9: x\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 " + b"O" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.12 200 OK\r\n\r\n",
    b"http/1.1 200 OK\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"hello",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    b"HTTP/1.1 102 " + b"Processing" * 100 + b"\r\n\r\n" + b"HTTP/1.1 102 P\r\nX: y\r\n\r\n" * 3000,
    b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + OK,
]


@pytest.mark.parametrize("answer", TWO_WAYS)
def test_an_answer_that_can_be_read_in_two_ways_is_502(
    gateway: Gateway, player: Puppet, client: Wire, answer: bytes
) -> None:
    client.raw(b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    used = player.accept(b"POST")
    pour(used, answer)
    with contextlib.suppress(OSError):
        used.sock.shutdown(socket.SHUT_WR)
    read = client.read()
    while read.status == 102:
        read = client.read()
    assert read.status == 502 and read.failure in {"upstream_protocol_error", "upstream_reset"}
    assert used.closed(2), "sooner than the pool gives it up"


def test_a_wrong_length_does_not_pass_by_head(gateway: Gateway, player: Puppet, client: Wire) -> None:
    """Nor one that says two things (RFC 9112 section 6.3): whoever is behind us would have to choose."""
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), retries=0),))
    for length in LENGTHS:
        client.raw(b"HEAD /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
        player.accept(b"HEAD").raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n")
        assert client.read("HEAD").status == 502, length


# -- instances that do not take what they are sent -------------------------------------------------------


def test_an_instance_that_stops_taking_a_body_is_to_blame_and_not_the_client(
    gateway: Gateway, player: Puppet, client: Wire
) -> None:
    size = 100_000_000
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), idle_timeout=1.0, max_body=size),))
    client.raw(b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    sending = threading.Thread(target=pour, args=(client, b"x" * size))
    sending.start()
    player.accept(b"POST")
    answer = client.read()
    assert (answer.status, answer.failure) == (504, "upstream_timeout")
    with contextlib.suppress(OSError):  # Where the gateway has ended the connection already.
        client.sock.shutdown(socket.SHUT_RDWR)
    sending.join()


def test_a_client_that_stops_sending_is_not_held_against_an_instance_that_answers_early(
    gateway: Gateway, player: Puppet
) -> None:
    """Else whoever may upload could open the breaker before everybody."""
    touchy = config.Breaker(sliding_window_size=4, minimum_calls=2)
    gateway.publish(
        services=gateway.service(breaker=touchy, outlier=config.Outlier(consecutive_failures=2)),
        routes=(config.Route("open", "up", "/open", auth=(), idle_timeout=0.3),),
    )
    for _ in range(4):
        with contextlib.closing(gateway.connect()) as client:
            client.raw(b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000)
            player.accept(b"POST").raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwaiting")
            assert client.closed()
    with contextlib.closing(gateway.connect()) as client:
        client.raw(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n")
        player.accept(b"GET").raw(OK)
        assert client.read().body == b"ok"


def test_a_body_over_the_limit_ends_though_the_answer_has_begun(gateway: Gateway, player: Puppet, client: Wire) -> None:
    gateway.publish(routes=(config.Route("open", "up", "/open", auth=(), max_body=200_000),))
    client.raw(b"POST /open/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    block = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    client.raw(block)
    used = player.accept(b"POST")
    used.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    until(lambda: b"hello" in client.buffer or client.more(), what="the answer's beginning")
    pour(client, block * 40)
    assert used.skip(10_000_000) < 400_000
    assert client.closed()


# -- a connection that comes too late ---------------------------------------------------------------------


@contextlib.contextmanager
def deaf() -> Iterator[tuple[socket.socket, set[tuple[str, int]]]]:
    """A listener whose queue is full, so that a connection to it is not there until somebody makes room."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.settimeout(10)
        fillers = [stack.enter_context(socket.socket()) for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener, {filler.getsockname() for filler in fillers}


def test_a_connection_that_comes_after_the_deadline_answers_nobody(started: Gateway, player: Puppet) -> None:
    """The first instance refuses at once, the second is reached when the client has long been told."""
    with deaf() as (listener, fillers), contextlib.ExitStack() as stack:
        late = config.Instance("late", f"http://127.0.0.1:{listener.getsockname()[1]}")
        routes = (config.Route("open", "up", "/open", auth=(), timeout=0.5, retries=1),)
        one = started.service(
            instances=(player.instance,), idle_connections=1, breaker=FOREVER, outlier=NEVER, connect_timeout=60.0
        )
        started.publish(services=one, routes=(config.Route("open", "up", "/open", auth=(), timeout=60.0),))
        busy = stack.enter_context(contextlib.closing(started.connect(20)))
        busy.raw(b"GET /open/busy HTTP/1.1\r\nHost: a\r\n\r\n")
        held = player.accept(b"GET")
        both = msgspec.structs.replace(one[0], instances=(late, player.instance))  # the second is asked first
        started.publish(services=(both,), routes=routes)
        client = stack.enter_context(contextlib.closing(started.connect(20)))
        client.raw(b"GET /open/dead HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read().failure == "upstream_timeout"
        found = None
        while found is None:
            sock, peer = listener.accept()
            stack.enter_context(sock)
            found = sock if peer not in fillers else None
        found.settimeout(10)
        found.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert Wire(found).closed(), "nobody asked, so nothing is listened to"
        held.raw(OK)
        assert busy.read().body == b"ok"
        client.raw(b"GET /open/next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head(held).startswith(b"GET /next ")
        held.raw(OK)
        assert client.read().body == b"ok"
