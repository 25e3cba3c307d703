"""A worker whose network is memory and whose clock is a number: what is outside of it is the test's to move."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from apps.gateway.core import config
from apps.gateway.core.auth import Identity, UnknownKey
from apps.gateway.plane import client_http1, exchange, request, table, upstream, upstream_http1
from apps.gateway.plane.client_http1 import ClientConnection
from apps.gateway.plane.table import Builder
from apps.gateway.plane.upstream import Instance
from apps.gateway.plane.upstream_http1 import UpstreamConnection
from apps.gateway.plane.worker import Settings, Worker
from missioncontrol import keys

HIGH = 4000
"""Bytes at which a transport asks for patience; far below the real mark, so that small answers reach it."""


class Transport:
    """One end of a connection; the other end is the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        self.loop = loop
        self.protocol = protocol
        self.sent = bytearray()
        """What the other end has taken."""
        self.buffer = bytearray()
        self.reading = True
        self.closing = self.lost = self.eof = self.aborted = False
        self._blocked = False
        protocol.connection_made(self)

    # -- for the protocol -----------------------------------------------------------------------------

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > HIGH

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: bytes) -> None:
        assert not self.closing and not self.eof, "written after the end"
        self.buffer += data
        if len(self.buffer) > HIGH and not self._blocked:
            self._blocked = True
            self.protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading or self.closing
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading or self.closing
        self.reading = True

    def close(self) -> None:
        self.closing = True
        if not self.buffer:
            self._lose(None)

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.buffer.clear()
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.loop.call_soon(self.protocol.connection_lost, error)

    # -- for the test -----------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """More can come from the other end."""
        return not self.closing

    def take(self, size: int) -> None:
        """The other end reads."""
        self.sent += self.buffer[:size]
        del self.buffer[:size]
        if self._blocked and len(self.buffer) <= HIGH // 4:
            self._blocked = False
            self.protocol.resume_writing()
        if self.closing and not self.buffer:
            self._lose(None)

    def deliver(self, data: bytes) -> None:
        """The other end has sent; only while this end reads."""
        assert self.open and self.reading
        self.protocol.data_received(data)

    def hang_up(self, error: Exception | None = None) -> None:
        """The other end is gone."""
        self.closing = True
        self.buffer.clear()
        self._lose(error)


class Dial:
    """A connection that is being opened."""

    def __init__(self, instance: Instance, loop: asyncio.AbstractEventLoop) -> None:
        self.instance = instance
        self.future: asyncio.Future[UpstreamConnection] = loop.create_future()


class Lease:
    """A limit whose word the test gives."""

    limit = config.RateLimit("limit", 10)
    retry_after = 1.0

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def take(self, now: float, waiter: Any) -> None:
        self._limiter.waiting.append(waiter)

    def fields(self) -> bytes:
        return b"RateLimit: x\r\n"


class Limiter:
    """Every limited request waits."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.limits: dict[str, config.RateLimit] = {}

    def configure(self, limits: dict[str, config.RateLimit]) -> None:
        self.limits = limits

    def sweep(self, now: float) -> None: ...

    def lease(self, policy: str, subject: str) -> Lease | None:
        return Lease(self) if policy in self.limits else None


class Keys:
    """No token's key is known until the test has seen to it."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.known = False
        self.sets: dict[str, Any] = {}

    def configure(self, issuers: object) -> None: ...

    def want(self, issuer: object, waiter: Any) -> bool:
        self.waiting.append(waiter)
        return True

    def identify(self, raw: bytes, now: float, issuers: object) -> Identity:
        if not self.known:
            raise UnknownKey(config.Issuer("i", "i", "a", ("EdDSA",), "http://i/"))
        return Identity("caller", "jwt", None, float("inf"))


class Quiet:
    """Nobody listens to what the judges decide."""

    def changed(self, service: str, change: object) -> None: ...

    def ejected(self, service: str, ejection: object) -> None: ...

    def panicked(self, service: str, panic: bool) -> None: ...


class World:
    """The worker and all that is around it."""

    def __init__(self, home: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = time.monotonic()
        self.dials: list[Dial] = []
        self.faults: list[Any] = []
        self.records: list[tuple[str, int, str]] = []
        self.limiter, self.keys = Limiter(), Keys()
        self.revision = 0
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        self._stack = contextlib.ExitStack()
        for module in (client_http1, exchange, request, upstream, upstream_http1):
            self._stack.enter_context(mock.patch.object(module, "monotonic", lambda: self.now))
        self._stack.enter_context(mock.patch.object(Instance, "_open", self._open_of()))
        self._stack.enter_context(mock.patch.object(table, "Tokens", lambda document, sets: self.keys))
        self.worker: Worker = self.do(lambda: self._make(home))

    def _make(self, home: Path) -> Worker:
        settings = Settings(
            home, "redis://127.0.0.1:1", "http://127.0.0.1:1", b"p", "f", "v", keys.wire(), keys.verifier(), strict=True
        )
        worker = Worker(settings)
        worker.limiter, worker.jwks = self.limiter, self.keys  # type: ignore[assignment]
        self.builder = Builder(b"p", "f", worker.jwks, worker.limiter, Quiet(), worker.writes)
        return worker

    def _open_of(self) -> Callable[[Instance], Any]:
        world = self

        async def _open(self: Instance) -> UpstreamConnection:
            dial = Dial(self, world.loop)
            world.dials.append(dial)
            return await dial.future

        return _open

    def close(self) -> None:
        self.do(lambda: [dial.future.cancel() for dial in self.dials])
        self.loop.run_until_complete(self.worker.redis.aclose())
        self._stack.close()
        self.loop.close()

    # -- turning ------------------------------------------------------------------------------------

    def do(self, work: Callable[[], Any]) -> Any:
        """Call within the loop, and let it turn until nothing is ready."""
        results: list[Any] = []
        self.loop.call_soon(lambda: results.append(work()))
        while self.loop._ready:  # type: ignore[attr-defined]
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            if list(self.loop._ready) == []:  # type: ignore[attr-defined]
                break
        assert not self.faults, self.faults
        return results[0]

    def adopt(self, **changes: Any) -> None:
        """Serve another revision."""
        self.revision += 1
        document = config.Document(self.revision, 0.0, **changes)

        def swap() -> None:
            self.worker.adopt(self.builder.build(document, self.worker.table, {}))

        self.do(swap)

    def client(self) -> Transport:
        """A client connects."""
        return self.do(lambda: Transport(self.loop, ClientConnection(self.worker, self._record)))

    def _record(self, done: request.Request, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.records.append((done.path, status, done.failure))

    def answer_dial(self, dial: Dial, error: BaseException | None = None) -> Transport | None:
        """The connection is open, or it is not."""
        self.dials.remove(dial)
        if error is not None:
            self.do(lambda: dial.future.set_exception(error) if not dial.future.done() else None)
            return None
        made: list[Transport] = []

        def connect() -> None:
            if not dial.future.done():
                connection = UpstreamConnection(dial.instance)
                made.append(Transport(self.loop, connection))
                dial.future.set_result(connection)

        self.do(connect)
        return made[0] if made else None


@contextlib.contextmanager
def world(home: Path) -> Iterator[World]:
    """A world, and its end."""
    found = World(home)
    try:
        yield found
    finally:
        found.close()
