"""One HTTP/1.1 connection to an instance: a request goes out, its answer is read, nothing else ever is.

Owns reading of answers and back-pressure; who may use the connection when is apps.gateway.plane.upstream's.
Bytes that nobody asked for, in front of a request or behind an answer, mark the connection broken.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Protocol

from apps.gateway.core.forward import LAST_CHUNK, Outgoing, chunk, request_head
from apps.gateway.core.framing import Body, Endless, response_body
from apps.gateway.core.headers import MAX_HEAD, FramingError, ResponseHead
from apps.gateway.core.heads import Buffer, read_response, status_line
from apps.gateway.plane.writes import Writes

WRITE_HIGH = 131_072
"""Bytes waiting to be written upstream at which the client is no longer read."""


FULL = 131_072
"""Of as much in one read there is more to come, and the loop would go on reading this one connection for long."""


class Holder(Protocol):
    """The attempt whose connection this is."""

    def received(self) -> None:
        """The answer has begun, gone on or ended."""

    def interim(self, status: int, head: ResponseHead) -> None:
        """A 1xx answer came ahead of the real one."""

    def failed(self, failure: str, detail: str) -> None:
        """There will be no more of the answer."""

    def filled(self) -> None:
        """No more of the request should be written for now."""

    def drained(self) -> None:
        """More of the request can be written."""


class Pool(Protocol):
    """Whose connections these are."""

    key: str
    head: bytes
    writes: Writes

    def opened(self, connection: UpstreamConnection) -> None: ...

    def lost(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to an instance."""

    __slots__ = (
        "_body",
        "_budget",
        "_chunked",
        "_first",
        "_heads",
        "_left",
        "_parts",
        "_paused",
        "_transport",
        "_turn",
        "blocked",
        "broken",
        "done",
        "head",
        "head_only",
        "heard",
        "holder",
        "idle_since",
        "keep",
        "pool",
        "status",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.holder: Holder | None = None
        self.idle_since = 0.0
        self.blocked = False
        """More is waiting to be written than should be."""
        self.broken = False
        """Never to be used again."""
        self._heads = Buffer(status_line)
        self._transport: Any = None
        self._paused = False
        self._chunked = False
        self._first = b""
        self._turn = -1
        """In which the request was given to be sent, at the end of it."""
        self.head: ResponseHead | None = None
        self.head_only = False
        self.status = 0
        """Of the answer; 0 while its head is not there."""
        self.heard = False
        """A byte of the answer has come."""
        self.done = False
        self.keep = False
        """The instance would take another request once this is done."""
        self._body: Body | None = None
        self._left = 0
        """Bytes that are still to come of a body whose length is known."""
        self._parts: list[bytes] = []
        self._budget = MAX_HEAD
        """Bytes left for all of the answer that is not body: its heads, the 1xx ones too, extensions, trailers."""

    # -- for the holder ---------------------------------------------------------------------------

    def request(self, holder: Holder, request: Outgoing, body: list[bytes], ended: bool) -> None:
        """Begin a request, with what there is of its body."""
        data = request_head(request, self.pool.head)
        self._chunked = request.head.coding is not None
        if body or (ended and self._chunked):
            data += self._framed(body, ended)
        self.send(holder, request.method == b"HEAD", data)

    def send(self, holder: Holder, head_only: bool, data: bytes) -> None:
        """Begin a request with its first bytes. ``head_only``: the answer to HEAD has no body whatever it says."""
        self.holder = holder
        self.status = 0
        self.head_only = head_only
        self.heard = self.done = self.keep = False
        self._body = None
        self._left = 0
        self._budget = MAX_HEAD
        self._parts = []
        self._first = data
        writes = self.pool.writes
        self._turn = writes.turn
        writes.add(self._transport, data)

    def more(self, body: list[bytes], ended: bool) -> None:
        """More of the request's body, or its end."""
        data = self._framed(body, ended)
        if data:
            self.pool.writes.add(self._transport, data)

    def _framed(self, body: list[bytes], ended: bool) -> bytes:
        data = b"".join(body)
        if not self._chunked:
            return data
        return (chunk(data) if data else b"") + (LAST_CHUNK if ended else b"")

    def take(self) -> list[bytes]:
        """What has come of the answer's body since it was last asked."""
        parts, self._parts = self._parts, []
        return parts

    def pause(self) -> None:
        """Stop reading: whoever reads our answer is slower."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _give_way(self) -> None:
        """Let the others have their turn before more is read."""
        if not self._paused:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on_reading)

    def _go_on_reading(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def fit(self, oldest: float) -> bool:
        """Whether it can take a request now: idle since ``oldest`` at most, and not about to close."""
        return self.idle_since >= oldest and not self.broken and not self._transport.is_closing()

    def withdraw(self) -> bool:
        """Take back what was to be sent this turn; True when that was all: nothing has gone out."""
        taken = self.pool.writes.withdraw(self._transport)
        return bool(taken) and taken[0] is self._first

    def rest(self) -> None:
        """Nobody's for now."""
        self.holder = None
        if self._paused:
            self.resume()
        self.idle_since = monotonic()

    def close(self) -> None:
        """Close for good; what has not been sent by now is of no use to anyone."""
        self.holder = None
        self.broken = True
        transport = self._transport
        self.pool.writes.withdraw(transport)
        if self.done and not transport.get_write_buffer_size():
            transport.close()
        else:
            transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH)
        self.idle_since = monotonic()
        self.pool.opened(self)

    def data_received(self, data: bytes) -> None:
        holder = self.holder
        if holder is None or self.done:
            # Nobody asked: an answer to nothing would be taken for the next request's.
            self.broken = True
            if holder is None:
                self._transport.abort()
            return
        if self._turn == self.pool.writes.turn:
            # The request has not left yet. Servers that give up waiting for it say so, and that crosses with it.
            self._fail("upstream_reset", f"{self.pool.key} spoke before it was asked.")
            return
        self.heard = True
        at = 0
        try:
            while not self.status:
                at = self._read_head(data, at, holder)
                if at < 0:
                    return
            if self._left:
                stop = at + self._left
                there = len(data)
                if at < there:
                    self._parts.append(data[at:stop])
                if stop > there:
                    self._left = stop - there
                    at = there
                else:
                    self._left = 0
                    self.done = True
                    at = stop
            elif self._body is not None and not self.done:
                at = self._body.feed(data, at, self._parts)
                self.done = self._body.done
                if len(data) >= FULL and not self.done:
                    self._give_way()
        except FramingError as error:
            self._fail("upstream_protocol_error", f"{self.pool.key}: {error.detail}")
            return
        if at < len(data):
            self.broken = True  # a second answer, or something that is none
        if self.holder is holder:
            holder.received()

    def _read_head(self, data: bytes, at: int, holder: Holder) -> int:
        """Read of one head what is there of it; where it stopped, -1 when the head goes on."""
        heads = self._heads
        if at == len(data) or self.holder is not holder:
            return -1
        at = heads.feed(data, at)
        if heads.size > self._budget:
            raise FramingError(f"The answer's heads are over {MAX_HEAD} bytes.")
        if heads.head is None:
            return -1
        self._budget -= heads.size
        head = read_response(heads.head)
        status = head.status
        if status < 200:
            # Ours are the only offers to switch protocols, and we make none (RFC 9110 section 15.2.2).
            if status == 101:
                raise FramingError("It switched protocols unasked.")
            if status != 100:
                holder.interim(status, head)
            return at
        body = response_body(
            status, head.length, head.coding, head_only=self.head_only, old=head.old, budget=self._budget
        )
        if isinstance(body, int):
            self._left = body
            self.done = not body
        else:
            self._body = body
        self.keep = head.keep
        if status == 204 and (head.coding is not None or (head.length or b"0").strip(b"0")):
            self.keep = False  # the body it promises may come later, and would be read as the next answer
        self.head = head
        self.status = status
        return at

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.broken = True
        self.pool.lost(self)
        holder = self.holder
        if holder is None or self.done:
            return  # a whole answer is one, whatever became of the connection since
        if self.status and isinstance(self._body, Endless) and error is None:
            self.done = True
            holder.received()
        else:
            self._fail("upstream_reset", f"{self.pool.key} closed the connection before its answer was done.")

    def pause_writing(self) -> None:
        self.blocked = True
        if self.holder is not None:
            self.holder.filled()

    def resume_writing(self) -> None:
        self.blocked = False
        if self.holder is not None:
            self.holder.drained()

    def _fail(self, failure: str, detail: str) -> None:
        self.broken = True
        self._transport.abort()
        if self.holder is not None:
            self.holder.failed(failure, detail)
