"""Clients, upstreams, limits, keys, time and configuration, driven in any order and any segmentation of bytes.

Against a model of what was asked and answered, these hold after every step: each request gets one answer, its own, in
order, on its own connection; whatever an upstream is sent is a request that somebody made, whole and unchanged; every
connection and exchange has a deadline; what is held stays under its bound. And in the end nothing is held at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from apps.gateway.core import config, patience
from apps.gateway.core.headers import MAX_HEAD
from apps.gateway.core.states import Reading, State
from apps.gateway.plane import sweep
from apps.gateway.plane.client_http1 import ClientConnection
from apps.gateway.plane.exchange import BODY_HIGH
from apps.gateway.plane.upstream_http1 import UpstreamConnection
from tests.unit.gateway.plane.memory import HIGH, Dial, Transport, World

SEGMENT = 70_000
"""Most bytes that arrive at once."""

ROUTES = ("open", "limited", "token", "both", "own", "nowhere")
GARBAGE = (b"\x00", b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", b"SSH-2.0-x\r\n", b"GET / HTTP/2.0\r\n\r\n")
UPSTREAM = ROUTES[:4]
HEADERS = config.Policies(
    headers=config.Headers(request_set={"X-Who": "{consumer}"}, response_set={"X-Request": "{request_id}"})
)
SELDOM = st.sampled_from([False, False, False, True])
LAST = (b"SSH-2.0\r\n\r\n", b"HTTP/1.1 101 Go\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nto the end")


@dataclass
class Asked:
    """A request as its client means it."""

    number: int
    method: str
    route: str
    body: bytes = field(repr=False)
    last: bool
    """The client, or HTTP/1.0, ends the connection with it."""
    broken: bool
    """Its body can't be read to its end, nor what comes behind it."""
    end: int
    """Where its bytes end in what the client sends."""
    answers: list[bytes] = field(default_factory=list, repr=False)
    """Bodies that upstreams have sent for it."""


@dataclass
class Read:
    """An answer as its client reads it."""

    status: int
    fields: dict[str, str]
    body: bytes = field(repr=False)
    whole: bool


def read_answers(data: bytes, methods: list[str]) -> Iterator[Read]:
    """The answers in ``data``, by their own framing."""
    for method in methods:
        while True:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                return
            first, *lines = head.decode().split("\r\n")
            assert first.startswith("HTTP/1.1 "), first
            status = int(first.split()[1])
            if status >= 200:
                break
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body, whole = b"", True
        if method == "HEAD" or status in {204, 304}:
            pass
        elif "content-length" in fields:
            size = int(fields["content-length"])
            body, data = data[:size], data[size:]
            whole = len(body) == size
        elif "transfer-encoding" in fields:
            whole = False
            while not whole:
                line, found, rest = data.partition(b"\r\n")
                size = int(line, 16) if found else 0
                if not found or len(rest) < size + 2:
                    break
                body, data = body + rest[:size], rest[size + 2 :]
                whole = size == 0
        else:
            body, data, whole = data, b"", False
        yield Read(status, fields, body, whole)
        if not whole:
            return


class Client:
    """A client's end of a connection."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.protocol: ClientConnection = transport.protocol
        self.asked: list[Asked] = []
        self.stream = b""
        self.at = 0
        self.ended = False
        """Nothing sensible comes any more."""
        self.left = False
        self._read_to = 0
        self._answers: list[Read] = []

    def answers(self) -> list[Read]:
        if len(self.transport.sent) != self._read_to:
            self._read_to = len(self.transport.sent)
            self._answers = self._parse()
        return self._answers

    def _parse(self) -> list[Read]:
        methods = [asked.method for asked in self.asked] + (["GET"] if self.ended else [])
        return list(read_answers(bytes(self.transport.sent), methods))


class Upstream:
    """An upstream's end of a connection."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.protocol: UpstreamConnection = transport.protocol
        self.http = h11.Connection(h11.SERVER)
        self.asked: Asked | None = None
        self.body = b""
        self.whole = self.answered = False
        self.outbox = b""
        self.close_after = False


class Machine(RuleBasedStateMachine):
    """See the file."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path("/nonexistent"))
        self.clients: list[Client] = []
        self.upstreams: list[Upstream] = []
        self.all: dict[int, Asked] = {}
        self.numbers = itertools.count(1)
        self.names = itertools.count(1)

    def teardown(self) -> None:
        try:
            self.run_out()
        finally:
            self.world.close()

    # -- configuration ------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.instances = [self.instance(), self.instance()]
        self.swap_breaker(False)

    def instance(self) -> config.Instance:
        number = next(self.names)
        return config.Instance(f"i{number}", f"http://192.0.2.9:{1000 + number}")

    def adopt(self, breaker: config.Breaker) -> None:
        self.breaker = breaker
        self.world.adopt(
            services=(config.Service("s", tuple(self.instances), breaker=breaker, connect_timeout=3600.0),),
            routes=(
                config.Route("open", "s", "/open", auth=()),
                config.Route("limited", "s", "/limited", auth=(), rate_limit="limit", retries=2),
                config.Route("token", "s", "/token", auth=("jwt",), retries=0),
                config.Route("both", "s", "/both", auth=("jwt",), rate_limit="limit", policies=HEADERS),
            ),
            rate_limits=(config.RateLimit("limit", 10),),
        )

    @rule(touchy=st.booleans())
    def swap_breaker(self, touchy: bool) -> None:
        few = config.Breaker(sliding_window_size=4, minimum_calls=2, half_open_calls=1, wait_in_open=3.0)
        self.adopt(few if touchy else config.Breaker(override="closed"))

    @rule(sure=SELDOM)
    def swap_instance(self, sure: bool) -> None:
        if not sure:
            return
        self.instances = [*self.instances[1:], self.instance()]
        self.adopt(self.breaker)

    # -- clients ------------------------------------------------------------------------------------

    @precondition(lambda self: sum(client.transport.open for client in self.clients) < 4)
    @rule()
    def connect(self) -> None:
        self.clients.append(Client(self.world.client()))

    def pick(self, which: int) -> Client | None:
        there = [client for client in self.clients if client.transport.open]
        return there[which % len(there)] if there else None

    @rule(
        which=st.integers(0, 3),
        route=st.sampled_from(ROUTES),
        method=st.sampled_from(["GET", "GET", "POST", "POST", "PUT", "HEAD"]),
        size=st.sampled_from([0, 0, 1, 50, 5000, 90_000, 250_000]),
        chunks=st.booleans(),
        offer=st.booleans(),
        ending=st.sampled_from(["", "", "", "close", "old", "broken"]),
        send=st.booleans(),
    )
    def ask(
        self, which: int, route: str, method: str, size: int, chunks: bool, offer: bool, ending: str, send: bool
    ) -> None:
        client = self.pick(which)
        if client is None or client.ended or client.asked[-5:-4]:
            self.connect()
            client = self.clients[-1]
        number = next(self.numbers)
        # A body that looks like a request, so that one byte read in the wrong place shows.
        body = (b"GET /open/9%05d HTTP/1.1\r\nHost: evil\r\n\r\n" % number * (size // 30 + 1))[:size]
        chunks = (chunks or ending == "broken") and ending != "old"
        path = {"own": "/-/health", "nowhere": "/nowhere"}.get(route, f"/{route}/{number}")
        lines = [f"{method} {path} HTTP/1.{0 if ending == 'old' else 1}", "Host: h", "Authorization: Bearer a.b.c"]
        lines += ["Connection: close"] if ending == "close" else []
        lines += ["Connection: Upgrade", "Upgrade: elsewhere"] if offer else []
        lines += ["Transfer-Encoding: chunked"] if chunks else [f"Content-Length: {size}"] if size else []
        data = body
        if chunks:
            parts = [body[at : at + 999] for at in range(0, size, 999)]
            data = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts)
            data += b"zz\r\n" if ending == "broken" else b"0\r\nT: x\r\n\r\n"
        client.stream += "\r\n".join(lines).encode() + b"\r\n\r\n" + data
        asked = Asked(number, method, route, body, bool(ending), ending == "broken", len(client.stream))
        client.asked.append(asked)
        client.ended = client.ended or asked.broken
        self.all[number] = asked
        if send and client.transport.open and client.transport.reading:
            sent = client.stream[client.at : client.at + SEGMENT]
            client.at += len(sent)
            self.world.do(lambda: client.transport.deliver(sent))

    @rule(which=st.integers(0, 3), garbage=st.sampled_from(GARBAGE))
    def spoil(self, which: int, garbage: bytes) -> None:
        client = self.pick(which)
        if client is not None and not client.ended:
            client.ended = True
            client.stream += garbage

    @rule(which=st.integers(0, 3), size=st.sampled_from([1, 2, 30, 500, SEGMENT, SEGMENT]))
    def send(self, which: int, size: int) -> None:
        client = self.pick(which)
        if client is None or not client.transport.reading:
            return
        data = client.stream[client.at : client.at + size]
        if data:
            client.at += len(data)
            self.world.do(lambda: client.transport.deliver(data))

    @rule(which=st.integers(0, 3), size=st.sampled_from([1, 300, 100_000, 100_000]))
    def read(self, which: int, size: int) -> None:
        client = self.pick(which)
        if client is not None:
            self.world.do(lambda: client.transport.take(size))

    def all_read(self) -> None:
        self.world.do(lambda: [client.transport.take(10**9) for client in self.clients if not client.left])

    @rule(which=st.integers(0, 3), reset=st.booleans(), sure=SELDOM)
    def leave(self, which: int, reset: bool, sure: bool) -> None:
        client = self.pick(which)
        if client is not None and sure:
            client.left = True
            self.world.do(lambda: client.transport.hang_up(ConnectionResetError() if reset else None))

    @rule(sure=st.sampled_from([False] * 9 + [True]))
    def drain(self, sure: bool) -> None:
        """A worker that is told to stop closes what is idle; here it changes its mind."""
        worker = self.world.worker
        if sure:
            worker.draining = True
            self.world.do(lambda: [one.close() for one in list(worker.clients) if one.exchange is None])
            self.flow(200, 5, True)
            worker.draining = False

    # -- what requests wait for -----------------------------------------------------------------------

    @precondition(lambda self: self.world.limiter.waiting)
    @rule(allowed=st.booleans())
    def limit(self, allowed: bool) -> None:
        waiter = self.world.limiter.waiting.pop(0)
        self.world.do(lambda: waiter.resume(allowed))

    @precondition(lambda self: self.world.keys.waiting)
    @rule(known=st.booleans())
    def fetch_keys(self, known: bool) -> None:
        waiting, self.world.keys.waiting = self.world.keys.waiting, []
        self.world.keys.known = known
        self.world.do(lambda: [waiter.resume() for waiter in waiting])

    @precondition(lambda self: self.world.dials)
    @rule(
        which=st.integers(0, 3),
        error=st.sampled_from([None, None, None, TimeoutError(), ConnectionRefusedError(111, "refused")]),
    )
    def dial(self, which: int, error: BaseException | None) -> None:
        dial = self.world.dials[which % len(self.world.dials)]
        self.answer_dial(dial, error)

    @rule(status=st.sampled_from([None, 200, 200, 503]), size=st.sampled_from([5, 3000, 9000]), read=st.booleans())
    def flow(self, status: int | None, size: int, read: bool) -> None:
        """What mostly happens: limits and keys are known, connections come about, instances read, and answer."""
        while self.world.limiter.waiting:
            self.limit(True)
        if self.world.keys.waiting:
            self.fetch_keys(True)
        while self.world.dials:
            self.answer_dial(self.world.dials[0], None)
        for which in range(len(self.upstreams)):
            self.upstream_reads(which, 10**9)
            if status is not None:
                self.answer(which, status, size, False, False, "", SEGMENT)
        if read:
            self.all_read()

    def answer_dial(self, dial: Dial, error: BaseException | None) -> None:
        transport = self.world.answer_dial(dial, error)
        if transport is not None:
            self.upstreams.append(Upstream(transport))

    # -- upstreams ------------------------------------------------------------------------------------

    def pick_upstream(self, which: int) -> Upstream | None:
        there = [upstream for upstream in self.upstreams if upstream.transport.open]
        return there[which % len(there)] if there else None

    @rule(which=st.integers(0, 5), size=st.sampled_from([1, 100, 100_000, 100_000]))
    def upstream_reads(self, which: int, size: int) -> None:
        upstream = self.pick_upstream(which)
        if upstream is None:
            return
        transport = upstream.transport
        self.world.do(lambda: transport.take(size))
        data = bytes(transport.sent)
        transport.sent.clear()
        if data:
            upstream.http.receive_data(data)
            self.understand(upstream)

    def understand(self, upstream: Upstream) -> None:
        """Every byte that reaches an upstream belongs to a request that somebody made."""
        while True:
            event = upstream.http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                assert upstream.asked is None, "a second request on a connection that is not done with the first"
                upstream.asked = self.all[int(event.target.decode().lstrip("/").split("/")[-1])]
                assert event.method.decode() == upstream.asked.method
                whose = [value for name, value in event.headers if name == b"x-who"]
                assert whose == ([b"caller"] if upstream.asked.route == "both" else []), "once, on every attempt"
                upstream.body, upstream.whole = b"", False
            elif isinstance(event, h11.Data):
                assert upstream.asked is not None
                upstream.body += bytes(event.data)
                assert upstream.asked.body.startswith(upstream.body)
            elif isinstance(event, h11.EndOfMessage):
                assert upstream.asked is not None and upstream.body == upstream.asked.body
                assert not upstream.asked.broken
                upstream.whole = True

    @rule(
        which=st.integers(0, 5),
        status=st.sampled_from([200, 200, 200, 404, 500, 503, 204, 304]),
        size=st.sampled_from([0, 5, 3000, 9000]),
        chunks=st.booleans(),
        early=st.sampled_from([False, False, True]),
        more=st.sampled_from(["", "", "", "close", "hints", "offer", "extra"]),
        send=st.sampled_from([0, 150, SEGMENT]),
    )
    def answer(self, which: int, status: int, size: int, chunks: bool, early: bool, more: str, send: int) -> None:
        upstream = self.pick_upstream(which)
        if upstream is None or upstream.asked is None or upstream.answered or not (early or upstream.whole):
            return
        asked, http = upstream.asked, upstream.http
        body = b"" if status in {204, 304} else (b"%d:%d;" % (asked.number, len(asked.answers)) * size)[:size]
        asked.answers.append(body)
        fields = [("X-Id", str(asked.number))]
        fields += [] if chunks or status in {204, 304} else [("Content-Length", str(size))]
        fields += [("Connection", "close")] if more == "close" else []
        fields += [("Connection", "Upgrade"), ("Upgrade", "elsewhere")] if more == "offer" else []
        if more == "hints":
            upstream.outbox += http.send(h11.InformationalResponse(status_code=103, headers=[("Link", "x")])) or b""
        upstream.outbox += http.send(h11.Response(status_code=status, headers=fields)) or b""
        if asked.method != "HEAD" and body:
            upstream.outbox += http.send(h11.Data(data=body)) or b""
        upstream.outbox += http.send(h11.EndOfMessage()) or b""
        if more == "extra":
            upstream.outbox += b"HTTP/1.1 200 OK\r\nX-Id: 0\r\nContent-Length: 4\r\n\r\nevil"
        upstream.answered = True
        upstream.close_after = more == "close"
        self.upstream_sends(which, send)

    @rule(which=st.integers(0, 5), size=st.sampled_from([1, 40, SEGMENT, SEGMENT]))
    def upstream_sends(self, which: int, size: int) -> None:
        upstream = self.pick_upstream(which)
        if upstream is None or not upstream.transport.reading:
            return
        data, upstream.outbox = upstream.outbox[:size], upstream.outbox[size:]
        if data:
            self.world.do(lambda: upstream.transport.deliver(data))
        if upstream.answered and not upstream.outbox:
            if upstream.close_after:
                if upstream.transport.open:
                    self.world.do(upstream.transport.hang_up)
            elif upstream.whole and upstream.http.our_state is h11.DONE:
                upstream.http.start_next_cycle()
                upstream.asked, upstream.answered = None, False

    @rule(
        which=st.integers(0, 5),
        last=st.sampled_from([b"", b"", *LAST]),
        reset=st.booleans(),
        sure=SELDOM,
    )
    def upstream_ends(self, which: int, last: bytes, reset: bool, sure: bool) -> None:
        upstream = self.pick_upstream(which)
        if upstream is None or not sure:
            return
        if last and not upstream.answered and upstream.asked is not None and upstream.transport.reading:
            if last.startswith(b"HTTP/1.1 200"):
                if reset:
                    return
                last = last.replace(b"\r\n\r\n", b"\r\nX-Id: %d\r\n\r\n" % upstream.asked.number)
                upstream.asked.answers.append(b"to the end")
            self.world.do(lambda: upstream.transport.deliver(last))
        if upstream.transport.open:
            self.world.do(lambda: upstream.transport.hang_up(ConnectionResetError() if reset else None))

    # -- time -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.5, 5.0, 8.0, 16.0, 31.0, 80.0]), sure=SELDOM)
    def wait(self, seconds: float, sure: bool = True) -> None:
        if not sure:
            return
        self.world.now += seconds
        self.look()

    def look(self) -> None:
        worker, now = self.world.worker, self.world.now
        self.world.do(lambda: sweep.exchanges(worker, now))
        self.world.do(lambda: sweep.connections(worker, now))

    # -- what always holds ------------------------------------------------------------------------------

    @invariant()
    def everything_has_a_deadline(self) -> None:
        now = self.world.now
        for one in self.world.worker.inflight:
            assert one.state is not State.DONE  # type: ignore[attr-defined]
            assert math.isfinite(one.deadline) and one.deadline <= now + 300, one
        for client in self.clients:
            protocol = client.protocol
            if client.transport.lost:
                assert protocol.state is Reading.CLOSED and protocol.exchange is None
                assert protocol not in self.world.worker.clients
            else:
                assert protocol in self.world.worker.clients
                assert math.isfinite(protocol.deadline)
                assert protocol.exchange is None or protocol.exchange in self.world.worker.inflight
                assert protocol.exchange is not None or protocol.deadline <= now + 300

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        for client in self.clients:
            protocol, exchange = client.protocol, client.protocol.exchange
            assert len(protocol._rest) <= 2 * SEGMENT
            assert len(protocol._heads._held) <= MAX_HEAD
            if exchange is not None:
                assert sum(map(len, exchange.body)) <= BODY_HIGH + SEGMENT
            assert len(client.transport.buffer) <= HIGH + 2 * SEGMENT
        for upstream in self.upstreams:
            assert len(upstream.transport.buffer) <= HIGH + BODY_HIGH + SEGMENT

    @invariant()
    def places_are_counted(self) -> None:
        if self.world.worker.table is None:
            return
        for service in self.world.worker.table.services.values():
            for instance in service.instances.values():
                busy = [one for one in instance.connections if one.holder is not None]
                dials = [dial for dial in self.world.dials if dial.instance is instance]
                assert instance.in_flight == len(busy) + len(dials), instance.key
                assert all(one.holder is None and not one.broken for one in instance.idle)

    @invariant()
    def every_answer_is_its_own(self) -> None:
        for client in self.clients:
            for asked, read in zip(client.asked, client.answers(), strict=False):
                if "x-id" in read.fields:
                    assert asked.route in UPSTREAM and read.fields["x-id"] == str(asked.number)
                    assert ("x-request" in read.fields) == (asked.route == "both")
                    if asked.method != "HEAD" and read.status not in {204, 304}:
                        sent = [body for body in asked.answers if body.startswith(read.body)]
                        assert sent and (not read.whole or read.body in asked.answers)
                else:
                    assert (read.status == 200) == (asked.route == "own" and read.status == 200)

    # -- the end --------------------------------------------------------------------------------------

    def run_out(self) -> None:
        """Everyone reads, nothing more is sent: whatever is under way ends by its deadline, and nothing is held."""
        if self.world.worker.table is None:
            return
        for _ in range(300):
            for which in range(4):
                self.send(which, SEGMENT)
            self.all_read()
            waiting = [one for one in self.clients if one.transport.open and one.at < len(one.stream)]
            if not self.world.worker.inflight and not waiting:
                break
            self.wait(1.0)
        assert not self.world.worker.inflight, list(self.world.worker.inflight)
        for service in self.world.worker.table.services.values():
            assert service.gate.in_flight == 0
        self.every_answer_is_its_own()
        for client in self.clients:
            self.account(client)
        for dial in list(self.world.dials):
            self.answer_dial(dial, None)
        for _ in range(4):
            self.wait(patience.IDLE_SECONDS + patience.CLOSE_SECONDS)
            self.all_read()
        assert not self.world.worker.clients
        for upstream in self.upstreams:
            assert upstream.transport.closing or self.still_known(upstream) is False
        self.places_are_counted()

    def still_known(self, upstream: Upstream) -> bool:
        return upstream.protocol in upstream.protocol.pool.connections  # type: ignore[attr-defined]

    def account(self, client: Client) -> None:
        """Each request that arrived whole has one answer, unless its connection ended before its turn."""
        answers = client.answers()
        arrived = [asked for asked in client.asked if asked.end <= client.at and not asked.broken]
        if client.left or client.transport.aborted:
            return
        for asked, read in zip(arrived, answers, strict=False):
            assert read.whole or client.transport.closing or client.transport.eof, (asked, read)
            assert not asked.last or read.fields.get("connection") == "close"
        if len(answers) < len(arrived):
            ended = client.transport.closing or client.transport.eof
            assert ended and answers, (arrived[len(answers)], client.protocol)
            last = answers[-1]
            assert last.fields.get("connection") == "close" or not last.whole


Machine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMachine: Any = Machine.TestCase
