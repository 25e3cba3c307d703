"""The gateway's own small requests (telemetry out, key sets in) over the same upstream client as everybody's."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from apps.gateway.core.headers import ResponseHead
from apps.gateway.plane.upstream import Attempt, Instance
from apps.lib.addresses import Guard


class FetchError(Exception):
    """No usable answer came; the message says why."""


class _Call:
    """One request that a coroutine waits for."""

    __slots__ = ("_attempt", "_data", "_limit", "_parts", "_size", "future")

    def __init__(self, instance: Instance, data: bytes, limit: int) -> None:
        self.future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._data = data
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        attempt = self._attempt = instance.acquire(self)
        if attempt.connection is not None:
            self.upstream_ready(attempt)
        elif attempt.failure:
            self.upstream_failed(attempt)

    def upstream_ready(self, attempt: Attempt) -> None:
        if attempt.connection is not None:
            attempt.connection.send(attempt, False, self._data)

    def upstream_received(self, attempt: Attempt) -> None:
        connection = attempt.connection
        if connection is None:
            return
        parts = connection.take()
        self._parts += parts
        self._size += sum(map(len, parts))
        if self._size > self._limit:
            attempt.close()
            self._end(FetchError(f"The answer is over {self._limit} bytes."))
        elif connection.done:
            status = connection.status
            attempt.close(reusable=True)
            if not self.future.done():
                self.future.set_result((status, b"".join(self._parts)))

    def upstream_interim(self, attempt: Attempt, status: int, head: ResponseHead) -> None:
        return

    def upstream_failed(self, attempt: Attempt) -> None:
        self._end(FetchError(attempt.detail))

    def upstream_filled(self, attempt: Attempt) -> None:
        return

    def upstream_drained(self, attempt: Attempt) -> None:
        return

    def _end(self, error: FetchError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._attempt.close()


class Endpoint:
    """One URL's server and path. ``tls`` follows from the scheme."""

    __slots__ = ("_host", "instance", "path")

    def __init__(self, url: str, instance: Instance) -> None:
        parts = urlsplit(url)
        self.instance = instance
        self.path = parts.path or "/"
        if parts.query:
            self.path += "?" + parts.query
        self._host = parts.netloc

    async def call(
        self, method: str, headers: bytes = b"", body: bytes = b"", *, seconds: float = 2.0, limit: int = 262_144
    ) -> tuple[int, bytes]:
        """The status and body of one request; FetchError when there is none within ``seconds``."""
        head = (
            f"{method} {self.path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: mission-control-gateway\r\n".encode()
        )
        length = b"Content-Length: %d\r\n" % len(body) if body or method == "POST" else b""
        call = _Call(self.instance, b"".join((head, headers, length, b"\r\n", body)), limit)
        try:
            async with asyncio.timeout(seconds):
                return await call.future
        except TimeoutError:
            raise FetchError(f"{self._host} gave no answer within {seconds:g} s.") from None
        finally:
            call.abandon()


def endpoint(name: str, url: str, guard: Guard | None = None) -> Endpoint:
    """An endpoint for ``url`` with a pool of its own; ``guard`` where somebody else named the address."""
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls is not None else 80)
    return Endpoint(url, Instance(name, parts.hostname or "", port, tls=tls, guard=guard))
