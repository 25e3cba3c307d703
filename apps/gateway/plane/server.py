"""The client's side: HTTP/1.1 connections as they come in, one exchange at a time on each.

Owns parsing, pipelining, limits on heads, keep-alive, slow and vanished clients. What a request means
is apps.gateway.plane.proxy's. Everything malformed is answered with a problem document and counted.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from time import monotonic
from typing import Any

import httptools

from apps.gateway.core.headers import MAX_FIELDS, MAX_HEAD, Fields
from apps.gateway.core.paths import MAX_TARGET
from apps.gateway.core.trace import Text
from apps.gateway.plane.exchange import Exchange, Record
from apps.gateway.plane.proxy import ProxyExchange
from apps.gateway.plane.worker import Worker
from apps.lib.problem import Problem

HEAD_SECONDS = 15.0
"""A request's head must be complete this long after its first byte."""

IDLE_SECONDS = 75.0
"""A kept connection without a request is closed after this long."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 1_048_576
"""After refusing a request whose body is still coming, so much of it is read and thrown away before the
connection closes: closing at once would reset it, and the client might never see why."""

WRITE_HIGH = 131_072
BODY_HIGH = 131_072
"""Bytes kept for a client, or from one, at which the other side is no longer read."""

_ADDRESS = Text("client.address")


class ClientConnection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_fields",
        "_fresh",
        "_head_size",
        "_linger",
        "_parser",
        "_paused",
        "_receiving",
        "_target",
        "_waiting",
        "address",
        "address_attribute",
        "blocked",
        "deadline",
        "exchange",
        "forwarded",
        "record",
        "scheme",
        "transport",
        "trusted",
        "worker",
    )

    def __init__(self, worker: Worker, record: Record) -> None:
        self.worker = worker
        self.record = record
        self.transport: Any = None
        self.exchange: ProxyExchange | None = None
        """The one being answered."""
        self.blocked = False
        self.deadline = 0.0
        """When the sweep closes this connection, unless an exchange is under way."""
        self._parser: Any = httptools.HttpRequestParser(self)
        self._receiving: ProxyExchange | None = None
        self._fresh: ProxyExchange | None = None
        self._waiting: deque[ProxyExchange] = deque()
        self._paused = False
        self._linger = -1
        self._head_size = 0
        self._target = b""
        self._fields: Fields = []

    # -- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "unix"
        scheme = "https" if transport.get_extra_info("sslcontext") is not None else "http"
        self.address = address
        self.address_attribute = _ADDRESS.encode(address.encode())
        self.scheme = f"X-Forwarded-Proto: {scheme}\r\n".encode()
        self.forwarded = f"X-Forwarded-For: {address}\r\n".encode() + self.scheme
        trusted = self.worker.settings.trusted_proxies
        self.trusted = bool(trusted) and any(ipaddress.ip_address(address) in net for net in trusted)
        self.deadline = monotonic() + HEAD_SECONDS
        transport.set_write_buffer_limits(WRITE_HIGH)
        if not self.worker.admit(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._linger >= 0:
            self._linger -= len(data)
            if self._linger < 0:
                self.transport.abort()
            return
        if self._receiving is None:
            if self._head_size == 0 and self.exchange is None:
                self.deadline = monotonic() + HEAD_SECONDS
            self._head_size += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._malformed(Problem(400, "framing", "The request is not well-formed HTTP/1.1."))
            return
        if self._receiving is None and self._head_size > MAX_HEAD and self._fresh is None and self.exchange is None:
            self._malformed(Problem(431, "headers_too_large", f"The request's head is over {MAX_HEAD} bytes."))
            return
        fresh = self._fresh
        if fresh is not None:
            self._fresh = None
            fresh.start()
        receiving = self._receiving
        if receiving is not None and receiving.is_started:
            receiving.client_received()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._parser = None  # it holds our methods
        self.worker.clients.discard(self)
        exchange, self.exchange = self.exchange, None
        self._receiving = self._fresh = None
        for waiting in self._waiting:
            waiting.client_lost()
        self._waiting.clear()
        if exchange is not None:
            exchange.client_lost()

    def pause_writing(self) -> None:
        self.blocked = True
        if self.exchange is not None:
            self.exchange.client_blocked()

    def resume_writing(self) -> None:
        self.blocked = False
        if self.exchange is not None:
            self.exchange.client_drained()

    # -- for the exchange -----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, with whatever else is sent this turn."""
        self.worker.writes.add(self.transport, data)

    def close(self) -> None:
        """Send what is waiting, then close."""
        self.worker.writes.flush()
        self.transport.close()

    def pause(self) -> None:
        """Stop reading the client: what it sent has not gone on yet."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on, unless pipelined requests wait."""
        if self._paused and not self._waiting:
            self._paused = False
            self.transport.resume_reading()

    def finished(self, exchange: Exchange, keep: bool) -> None:
        """``exchange`` has been answered."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        if not exchange.body_done and self._receiving is exchange:
            self._lingering()
        elif not keep:
            self.close()
        elif self._waiting:
            self.exchange = following = self._waiting.popleft()
            # By the loop, not from here: a thousand pipelined refusals must not nest a thousand deep.
            asyncio.get_running_loop().call_soon(following.start)
        else:
            self.deadline = monotonic() + IDLE_SECONDS
            self.resume()
            if self.worker.draining:
                self.close()

    def expire(self) -> None:
        """The sweep found the deadline past."""
        if self._linger >= 0 or self._head_size == 0 or self._receiving is not None:
            self.transport.abort() if self._linger >= 0 else self.close()
        else:
            self._malformed(Problem(408, "request_timeout", "The request's head did not arrive in time."))

    def _lingering(self) -> None:
        self._linger = LINGER_BYTES
        self._receiving = None
        self._waiting.clear()
        self.deadline = monotonic() + LINGER_SECONDS
        self.resume()
        self.worker.writes.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # An offer to switch protocols may be ignored (RFC 9110 section 7.8); the exchange decides.
                data = data[upgrade.args[0] :]
            else:
                return

    def _malformed(self, problem: Problem) -> None:
        """Answer what can't be read, then close; whatever is still being answered goes first."""
        self._linger = LINGER_BYTES
        exchange = self._receiving
        if exchange is not None and exchange.is_started:
            exchange.client_broke(problem)
            return
        if exchange is None:
            exchange = self._receiving = ProxyExchange(self, b"", b"", [], False, False)
            if self.exchange is None:
                self.exchange = exchange
            else:
                self._waiting.append(exchange)
        exchange.refusal = problem
        exchange.body_done = False
        if exchange is self.exchange:
            self._fresh = None
            exchange.start()

    # -- httptools ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target = b""
        self._fields = []

    def on_url(self, data: bytes) -> None:
        self._target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving is None:  # later ones are trailers, which are not passed on
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        fields = self._fields
        old = parser.get_http_version() == "1.0"
        exchange = ProxyExchange(self, parser.get_method(), self._target, fields, parser.should_keep_alive(), old)
        if len(self._target) > MAX_TARGET:
            exchange.refusal = Problem(414, "target_too_long", f"The request target is over {MAX_TARGET} bytes.")
        elif len(fields) > MAX_FIELDS:
            exchange.refusal = Problem(431, "headers_too_large", f"The request has over {MAX_FIELDS} header fields.")
        elif self._head_size > MAX_HEAD and sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEAD:
            exchange.refusal = Problem(431, "headers_too_large", f"The request's head is over {MAX_HEAD} bytes.")
        self._receiving = exchange
        if self.exchange is None:
            self.exchange = self._fresh = exchange
        else:
            self._waiting.append(exchange)
            self.pause()

    def on_body(self, data: bytes) -> None:
        receiving = self._receiving
        if receiving is not None:
            receiving.body.append(data)
            receiving.body_size += len(data)

    def on_message_complete(self) -> None:
        receiving = self._receiving
        if receiving is not None:
            receiving.body_done = True
            if receiving.is_started:
                receiving.client_received()
        self._receiving = None
        self._head_size = 0
