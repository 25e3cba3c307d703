"""Connections to instances: opened on demand, kept alive, one request at a time, answers handed to a user object.

Owns HTTP/1.1 toward upstreams: connecting, reuse, parsing of answers and back-pressure. Knows nothing of
routes or policies. Callbacks, not coroutines: a request on a kept connection costs no task and no future.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import httptools

from apps.gateway.core.headers import MAX_HEAD, Fields
from apps.gateway.plane.writes import Writes

IDLE_SECONDS = 4.0
"""A kept connection is not used again after this long: common servers close theirs at 5 s, and a request
written into that race is lost."""

AVOID_SECONDS = 1.0
"""An instance that can't be reached is asked last for so long, which spares the others' callers a failed attempt
each, and the breaker the count, until the monitor's verdict."""

WRITE_HIGH = 131_072
"""Bytes waiting to be written upstream at which the client is no longer read."""

Guard = Callable[[str], bool]
"""Whether this peer address may be spoken to; asked after connecting, before the first byte is sent."""


class User(Protocol):
    """Who asked for a connection. Exactly one of ``upstream_ready`` and ``upstream_failed`` is called for each
    ``Instance.acquire``; after ``upstream_ready``, ``upstream_received`` until the answer is done, or one failure."""

    def upstream_ready(self, connection: UpstreamConnection) -> None: ...

    def upstream_received(self, connection: UpstreamConnection) -> None: ...

    def upstream_interim(self, status: int, fields: Fields) -> None: ...

    def upstream_failed(self, failure: str, detail: str) -> None: ...

    def upstream_drained(self) -> None: ...


class Connecting:
    """An attempt to connect; ``user`` is taken away when it no longer wants the result."""

    __slots__ = ("task", "user")

    def __init__(self, user: User) -> None:
        self.user: User | None = user
        self.task: asyncio.Task[None] | None = None


class Instance:
    """One process of a service and the connections to it."""

    __slots__ = (
        "_connecting",
        "_guard",
        "_loop",
        "_tls",
        "avoid_until",
        "connect_timeout",
        "connections",
        "head",
        "host",
        "idle",
        "in_flight",
        "key",
        "limit",
        "port",
        "retired",
        "tls",
        "weight",
        "writes",
    )

    def __init__(
        self,
        key: str,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        guard: Guard | None = None,
        writes: Writes | None = None,
    ) -> None:
        self.key = key
        self.host = host
        self.port = port
        self.weight = 1
        self.limit = 256
        self.connect_timeout = 1.0
        self.head = b""
        """Fields that every request to this instance carries, Host above all."""
        self.in_flight = 0
        self.avoid_until = 0.0
        self.retired = False
        self.idle: list[UpstreamConnection] = []
        self.connections: set[UpstreamConnection] = set()
        self._connecting: set[Connecting] = set()
        self._tls = tls
        self.tls = tls is not None
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.writes = writes or Writes()

    def acquire(self, user: User) -> Connecting | None:
        """Give ``user`` a connection: at once (None), or later (what it may cancel)."""
        idle = self.idle
        if idle:
            oldest = monotonic() - IDLE_SECONDS
            while idle:
                connection = idle.pop()
                if connection.idle_since >= oldest:
                    self.in_flight += 1
                    user.upstream_ready(connection)
                    return None
                connection.close()
        if self.in_flight >= self.limit:
            user.upstream_failed("upstream_overloaded", f"All {self.limit} connections to {self.key} are in use.")
            return None
        self.in_flight += 1
        ticket = Connecting(user)
        self._connecting.add(ticket)
        ticket.task = self._loop.create_task(self._connect(ticket))
        return ticket

    async def _connect(self, ticket: Connecting) -> None:
        failure, detail = "", ""
        connection: UpstreamConnection | None = None
        try:
            async with asyncio.timeout(self.connect_timeout):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self), self.host, self.port, ssl=self._tls
                )
        except TimeoutError:
            failure = "upstream_connect_timeout"
            detail = f"{self.key} did not accept a connection within {self.connect_timeout:g} s."
        except (OSError, ssl.CertificateError) as error:
            failure, detail = "upstream_connect_failed", f"{self.key} can't be reached ({error.strerror or error})."
        finally:
            self._connecting.discard(ticket)
            if connection is None or ticket.user is None:
                self.in_flight -= 1
        if connection is not None and not self._allowed(connection):
            connection.close()
            failure, detail = "upstream_connect_failed", f"The address of {self.key} is not allowed."
            self.in_flight -= ticket.user is not None
        if failure:
            self.avoid_until = monotonic() + AVOID_SECONDS
        user = ticket.user
        if user is None:
            if connection is not None and not failure:
                connection.rest()
        elif connection is None or failure:
            user.upstream_failed(failure, detail)
        else:
            user.upstream_ready(connection)

    def _allowed(self, connection: UpstreamConnection) -> bool:
        return self._guard is None or self._guard(connection.peer())

    def sweep(self, now: float) -> None:
        """Close connections that have been idle too long."""
        keep = [connection for connection in self.idle if connection.idle_since >= now - IDLE_SECONDS]
        if len(keep) != len(self.idle):
            stale = [connection for connection in self.idle if connection.idle_since < now - IDLE_SECONDS]
            self.idle[:] = keep
            for connection in stale:
                connection.close()

    def retire(self) -> None:
        """Out of the configuration: idle connections close now, busy ones when their answer is done."""
        self.retired = True
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    def close(self) -> None:
        """The worker ends: every connection does."""
        self.retired = True
        for connection in list(self.connections):
            connection.close()


class UpstreamConnection(asyncio.Protocol):
    """One connection to an instance."""

    __slots__ = (
        "_interim",
        "_parser",
        "_transport",
        "blocked",
        "broken",
        "chunks",
        "done",
        "fields",
        "framed",
        "head_done",
        "head_only",
        "head_size",
        "idle_since",
        "instance",
        "keep",
        "paused",
        "status",
        "user",
    )

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.user: User | None = None
        self.idle_since = 0.0
        self.blocked = False
        """More is waiting to be written than should be."""
        self.paused = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self.broken = False
        self._interim = False
        self.status = 0
        self.fields: Fields = []
        self.chunks: list[bytes] = []
        self.framed = self.head_done = self.head_only = self.done = self.keep = False
        self.head_size = 0

    # -- for the user -----------------------------------------------------------------------------

    def send(self, user: User, head_only: bool, data: bytes) -> None:
        """Begin a request with its first bytes. ``head_only``: the answer to HEAD has no body whatever it says."""
        self.user = user
        self.head_only = head_only
        self.status = self.head_size = 0
        self.fields = []
        self.chunks = []
        self.framed = self.head_done = self.done = self.keep = False
        self.instance.writes.add(self._transport, data)

    def write(self, data: bytes) -> None:
        """More of the request."""
        self.instance.writes.add(self._transport, data)

    def pause(self) -> None:
        """Stop reading: whoever reads our answer is slower."""
        if not self.paused:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            self._transport.resume_reading()

    def release(self, reusable: bool) -> None:
        """The user is done with it: keep the connection for the next request, or close it."""
        self.user = None
        instance = self.instance
        instance.in_flight -= 1
        if reusable and self.done and self.keep and not self.broken and not instance.retired:
            self.rest()
        else:
            self._transport.abort() if not self.done else self._transport.close()

    def rest(self) -> None:
        """Wait for the next request."""
        self.resume()
        self.idle_since = monotonic()
        self.instance.idle.append(self)

    def close(self) -> None:
        """Close; the connection is nobody's."""
        self._transport.close()

    def peer(self) -> str:
        """The address connected to."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    # -- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH)
        self.instance.connections.add(self)

    def data_received(self, data: bytes) -> None:
        user = self.user
        if user is None:
            # Nobody asked: an answer to nothing would be taken for the next request's.
            self.broken = True
            self._forget()
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.broken = True
        if not self.head_done and not self.broken:
            self.head_size += len(data)
            self.broken = self.head_size > MAX_HEAD
        if self.broken and not self.done:
            self._fail(user, "upstream_protocol_error", f"{self.instance.key} sent something that is not HTTP.")
        elif self.head_done:
            if self.done and self.head_only:
                self._parser = httptools.HttpResponseParser(self)  # the old one still waits for a body
            user.upstream_received(self)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._parser = None  # it holds our methods: without this the two would keep each other alive
        self.broken = True
        self.instance.connections.discard(self)
        self._forget()
        user = self.user
        if user is None:
            return
        if self.head_done and not self.done and not self.framed and error is None:
            self.done = True  # a body without length or chunks ends with the connection (RFC 9112 section 6.3)
            user.upstream_received(self)
        else:
            self._fail(user, "upstream_reset", f"{self.instance.key} closed the connection before its answer was done.")

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        if self.user is not None:
            self.user.upstream_drained()

    def _fail(self, user: User, failure: str, detail: str) -> None:
        self.user = None
        self.instance.in_flight -= 1
        self._transport.abort()
        user.upstream_failed(failure, detail)

    def _forget(self) -> None:
        if self in self.instance.idle:
            self.instance.idle.remove(self)

    # -- httptools ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.done:
            self.broken = True  # a second answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done:  # later ones are trailers, which are not passed on
            self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            self.broken = self.broken or status == 101 or self.user is None
            if self.user is not None and status not in {100, 101}:
                self.user.upstream_interim(status, self.fields)
            return
        self.status = status
        self.head_done = True
        if self.head_only:
            self.done = True
            self.keep = self._parser.should_keep_alive()
        else:
            for name, _ in self.fields:
                if len(name) in {14, 17} and name.lower() in {b"content-length", b"transfer-encoding"}:
                    self.framed = True
                    break

    def on_body(self, data: bytes) -> None:
        if self.done:
            self.broken = True
        else:
            self.chunks.append(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self.fields = []
        elif not self.done:
            self.done = True
            self.keep = self._parser.should_keep_alive()
