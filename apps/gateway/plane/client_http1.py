"""The client's side in HTTP/1.1: connections as they come in, one exchange at a time on each.

Owns how much of a request is there (apps.gateway.core.states.Reading), how an answer is framed, keep-alive, and slow
and vanished clients. What a request means is the exchange's. Whatever comes behind a request that is being answered
is not looked at before its turn: it waits in one buffer, and the connection is not read meanwhile.
"""

from __future__ import annotations

import asyncio
import ipaddress
from time import monotonic
from typing import Any

from apps.gateway.core import patience
from apps.gateway.core.forward import LAST_CHUNK, answer_head, chunk, framing, lines, own_answer, status_line
from apps.gateway.core.framing import Body, request_body
from apps.gateway.core.headers import MAX_HEAD, FramingError, RequestHead, ResponseHead
from apps.gateway.core.heads import Buffer, read_request, request_line
from apps.gateway.core.states import CLIENT, IllegalTransition, Reading, Turn
from apps.gateway.core.target import read_target
from apps.gateway.core.trace import Text
from apps.gateway.plane.client import Answered
from apps.gateway.plane.exchange import Exchange
from apps.gateway.plane.request import Record
from apps.gateway.plane.worker import Worker
from services.kit.problem import Problem, Refused

# Members of an enumeration are looked up at a cost that shows here: a name of this module's is free.
IDLE, HEAD, BODY, HELD, SPOILT, FLUSHING, LINGERING, CLOSING, CLOSED = Reading
BEGIN, HEAD_WHOLE, WHOLE, SPOIL, KEEP, STALL, DRAIN, LINGER, CLOSE, LOSE = Turn

LINGER_BYTES = 1_048_576
"""What still comes after the last answer is read and thrown away up to so much."""

WRITE_HIGH = 131_072
"""Bytes kept for a client at which the upstream is no longer read, nor the client's next request."""

FULL = 131_072
"""Of as much in one read there is more to come, and the loop would go on reading this one connection for long."""

MOST_PARTS = 64
"""Pieces in which a body is kept: of a body that comes in bytes, the pieces would weigh far more than it does."""

_ADDRESS = Text("client.address")


class ClientConnection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_at",
        "_blocked_at",
        "_blocked_by",
        "_body",
        "_chunked",
        "_forwarded",
        "_heads",
        "_keep",
        "_linger",
        "_old",
        "_paused",
        "_record",
        "_rest",
        "_scheme",
        "address",
        "address_attribute",
        "blocked",
        "deadline",
        "exchange",
        "state",
        "transport",
        "trusted",
        "worker",
    )

    def __init__(self, worker: Worker, record: Record) -> None:
        self.worker = worker
        self._record = record
        self.transport: Any = None
        self.state = IDLE
        self.exchange: Exchange | None = None
        """The one being answered."""
        self.deadline = monotonic() + patience.HEAD_SECONDS
        """When the sweep looks again. While a request is answered its exchange has one of its own."""
        self.blocked = False
        self._heads = Buffer(request_line)
        self._body: Body | None = None
        self._keep = self._old = self._chunked = self._paused = False
        self._rest = b""
        """Behind the request that is being answered, from ``_at``: not looked at yet."""
        self._at = 0
        self._linger = LINGER_BYTES
        self._blocked_at = 0.0
        self._blocked_by = 0
        """Bytes that waited for the client when it stopped taking them."""

    def __repr__(self) -> str:
        return f"<ClientConnection {self.address}: {self.state.name.lower()}, {self.exchange!r}>"

    def _move(self, turn: Turn) -> None:
        try:
            self.state = CLIENT[self.state][turn]
        except KeyError:
            self.transport.abort()
            self.worker.fault("client", IllegalTransition(self.state, turn))
            raise IllegalTransition(self.state, turn) from None

    # -- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "unix"
        scheme = "https" if transport.get_extra_info("sslcontext") is not None else "http"
        self.address = address
        self.address_attribute = _ADDRESS.encode(address.encode())
        self._scheme = f"X-Forwarded-Proto: {scheme}\r\n".encode()
        self._forwarded = f"X-Forwarded-For: {address}\r\n".encode() + self._scheme
        trusted = self.worker.settings.trusted_proxies
        self.trusted = bool(trusted) and any(ipaddress.ip_address(address) in net for net in trusted)
        transport.set_write_buffer_limits(WRITE_HIGH)
        if not self.worker.admit(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        state = self.state
        if (self._rest and state <= HELD) or state in (HELD, FLUSHING):
            self._rest = self._rest[self._at :] + data if self._rest else data
            self._at = 0
            self.pause()
        elif state <= HEAD:
            self._read(data, 0)
        elif state is BODY:
            self._read_body(data)
            if len(data) >= FULL:
                self._give_way()
        else:
            self._linger -= len(data)
            if self._linger < 0:
                self.transport.abort()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._move(LOSE)
        self.worker.clients.discard(self)
        self._rest = b""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_lost()

    def pause_writing(self) -> None:
        self.blocked = True
        self._blocked_at = monotonic()
        self._blocked_by = self.transport.get_write_buffer_size()
        if self.exchange is not None:
            self.exchange.client_blocked()

    def resume_writing(self) -> None:
        self.blocked = False
        if self.exchange is not None:
            self.exchange.client_drained()
        elif self.state is FLUSHING:
            self._move(DRAIN)
            self.deadline = monotonic() + patience.IDLE_SECONDS
            self._next()

    # -- reading ------------------------------------------------------------------------------------

    def _read(self, data: bytes, at: int) -> None:
        """Read a head, and what there is of its body; what comes behind them waits."""
        buffer = self._heads
        end = len(data)
        try:
            at = buffer.feed(data, at)
            head = read_request(buffer.head) if buffer.head is not None else None
            body: Body | None = None
            if head is not None and (head.length is not None or head.coding is not None):
                body = request_body(head.length, head.coding, old=head.old, budget=MAX_HEAD - buffer.size)
            if head is not None:
                read_target(head)
        except FramingError as error:
            self._spoil(Problem(error.status, error.failure, error.detail))
            return
        except Refused as refused:
            self._spoil(refused.problem)
            return
        if head is None:
            if self.state is IDLE and buffer.begun:
                self._move(BEGIN)
                self.deadline = monotonic() + patience.HEAD_SECONDS
            return
        self._keep = head.keep
        self._old = head.old
        exchange = self.exchange = Exchange(self, self._record, head.method, head, body is None)
        if body is None:
            self._move(WHOLE)
        else:
            self._body = body
            self._move(HEAD_WHOLE)
            if at < end:
                at = self._take(exchange, body, data, at)
                if at < 0:
                    return
        if at < end:
            self._rest, self._at = data, at
        exchange.start()
        if self._rest and self.exchange is exchange:
            self.pause()

    def _read_body(self, data: bytes) -> None:
        exchange, body = self.exchange, self._body
        assert exchange is not None and body is not None  # noqa: S101 - that is what the state says
        at = self._take(exchange, body, data, 0)
        if at < 0:
            return
        if at < len(data):
            self._rest, self._at = data, at
            self.pause()
        exchange.client_received()

    def _take(self, exchange: Exchange, body: Body, data: bytes, at: int) -> int:
        """Body for ``exchange``; where it stopped, -1 when it can't be read on."""
        try:
            at = body.feed(data, at, exchange.body)
        except FramingError as error:
            self._move(SPOIL)
            self._keep = False
            problem = Problem(error.status, error.failure, error.detail)
            exchange.body_size = body.size
            exchange.client_broke(problem)
            return -1
        if len(exchange.body) > MOST_PARTS:
            exchange.body[:] = (b"".join(exchange.body),)
        exchange.body_size = body.size
        if body.done:
            exchange.body_done = True
            self._move(WHOLE)
        return at

    def _spoil(self, problem: Problem) -> None:
        """Answer what can't be read, then close."""
        self._move(SPOIL)
        self._keep = False
        exchange = self.exchange = Exchange(self, self._record, b"", RequestHead(), False)
        exchange.start(problem)

    def _next(self) -> None:
        """Answered and taken: read on."""
        if self._rest:
            # By the loop, not from here: a thousand pipelined refusals must not nest a thousand deep.
            asyncio.get_running_loop().call_soon(self._read_rest)
        elif self._paused:
            self.resume()

    def _read_rest(self) -> None:
        if self.state is not IDLE:
            return
        data, at = self._rest, self._at
        self._rest, self._at = b"", 0
        self._read(data, at)
        if self.state <= HEAD:
            self.resume()

    def _give_way(self) -> None:
        """Let the others have their turn before more is read."""
        if not self._paused:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on_reading)

    def _go_on_reading(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause(self) -> None:
        """Stop reading the client: what it sent has not gone on yet."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on, unless something that came has not had its turn."""
        if self._paused and not self._rest:
            self._paused = False
            self.transport.resume_reading()

    # -- the answer ---------------------------------------------------------------------------------

    def origin(self, head: RequestHead) -> bytes:
        """See Client."""
        if self.trusted and head.forwarded is not None:
            return b"X-Forwarded-For: %b, %b\r\n%b" % (head.forwarded, self.address.encode(), self._scheme)
        return self._forwarded

    def go_on(self) -> None:
        """See Client."""
        if not self._old:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def interim(self, status: int, head: ResponseHead) -> None:
        """See Client. HTTP/1.0 knows no 1xx (RFC 9110 section 15.2)."""
        if not self._old:
            self._write(status_line(status) + lines(head) + b"\r\n")

    def begin(self, exchange: Answered, status: int, head: ResponseHead, body: list[bytes], complete: bool) -> None:
        """See Client. One write for an answer that is complete."""
        how = framing(status, head, head_only=exchange.method == b"HEAD", complete=complete, old=self._old)
        self._chunked = how == "chunked"
        if how == "close" or self.state is not HELD or self.worker.draining:
            self._keep = False  # of a request of which some is still to come, no other can follow
        parts = answer_head(
            status,
            head,
            how,
            sum(map(len, body)),
            self.worker.date_line() if not head.date else b"",
            exchange.trace_id,
            exchange.extra,
            keep=self._keep,
            old=self._old,
        )
        if body and how != "none":
            parts += (chunk(b"".join(body)),) if self._chunked else body
        self.worker.writes.add(self.transport, b"".join(parts))

    def more(self, body: list[bytes]) -> None:
        """See Client."""
        data = b"".join(body)
        self._write(chunk(data) if self._chunked else data)

    def end(self) -> None:
        """See Client."""
        if self._chunked:
            self._write(LAST_CHUNK)

    def own(self, exchange: Answered, status: int, content_type: str, body: bytes) -> None:
        """See Client."""
        if self.state is not HELD or self.worker.draining:
            self._keep = False
        head = own_answer(
            status,
            content_type,
            body,
            self.worker.date_line(),
            exchange.trace_id,
            exchange.extra,
            keep=self._keep,
            old=self._old,
        )
        self._write(head if exchange.method == b"HEAD" else head + body)

    def cut(self) -> None:
        """See Client."""
        self.worker.writes.flush()  # what came of the answer before it broke off
        self._move(CLOSE)
        self.deadline = monotonic() + patience.CLOSE_SECONDS
        self.transport.abort()

    def drain_by(self, idle: float) -> float:
        """See Client."""
        taken = max(0, self._blocked_by - self.transport.get_write_buffer_size())
        return patience.drain_deadline(self._blocked_at, taken, idle)

    def _write(self, data: bytes) -> None:
        self.worker.writes.add(self.transport, data)

    # -- the end of a request, and of the connection --------------------------------------------------

    def finished(self) -> None:
        """See Client."""
        self.exchange = self._body = None
        state = self.state
        if state >= CLOSING:
            return
        if state is not HELD:
            self._linger_on()
        elif not self._keep:
            self._linger_on() if self._rest else self.close()
        elif self.blocked:
            self._move(STALL)
            self.deadline = self.drain_by(patience.CLOSE_SECONDS)
        else:
            self._move(KEEP)
            self.deadline = monotonic() + patience.IDLE_SECONDS
            if self._rest or self._paused or self.worker.draining:
                self._next()

    def close(self) -> None:
        """Send what is waiting, then close; a client that does not take it is not waited for without end."""
        self.worker.writes.flush()
        self._move(CLOSE)
        self.deadline = monotonic() + patience.CLOSE_SECONDS
        self.transport.close()

    def _linger_on(self) -> None:
        """More may come: closing now would reset the connection, and the client might never see its answer."""
        self._move(LINGER)
        self._rest = b""
        self.resume()
        self.worker.writes.flush()
        transport = self.transport
        waiting = transport.get_write_buffer_size()
        self.deadline = monotonic() + (patience.CLOSE_SECONDS if waiting else patience.LINGER_SECONDS)
        if transport.can_write_eof():
            transport.write_eof()

    def expire(self, now: float) -> None:
        """The deadline is past."""
        state = self.state
        if self.exchange is not None:
            return  # it has a deadline of its own
        if state is HEAD:
            self._spoil(Problem(408, "request_timeout", "The request's head did not arrive in time."))
        elif state is IDLE:
            self.close()
        elif state is FLUSHING and (until := self.drain_by(patience.CLOSE_SECONDS)) > now:
            self.deadline = until
        else:
            self.transport.abort()
