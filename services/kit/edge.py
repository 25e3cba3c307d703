"""The limits of one exchange: how large a body, how slow a sender, how long there is to answer.

Bodies are read whole before a handler runs, up to the limit, so that no handler meets half a
request and an oversized one costs no more than the limit. The deadline travels between services as
``X-Request-Timeout-Ms``, the milliseconds that the caller will still wait (as gRPC's grpc-timeout).
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import send_problem
from .problem import Problem

MAX_BODY = 1024 * 1024
BODY_SECONDS = 10.0
DEADLINE_HEADER = "X-Request-Timeout-Ms"
MAX_SECONDS = 15.0
"""What a request may take when its caller does not say less."""

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""When, by the monotonic clock, the current request's caller stops waiting."""


def remaining() -> float:
    """Seconds left for the current request, 0 at least; ``MAX_SECONDS`` outside of one."""
    until = deadline.get()
    return MAX_SECONDS if until is None else max(0.0, until - time.monotonic())


class Limits:
    """413 for a body over ``max_body``, 408 for one that does not arrive, 504 for a request already too late."""

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._max_body = max_body
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        budget = _budget(headers.get(_DEADLINE, b""))
        if budget <= 0:
            await send_problem(send, Problem(504, "deadline_exceeded", "The caller's deadline had passed already."))
            return
        problem = self._declared_too_large(headers.get(b"content-length", b""))
        body: bytes | None = b""
        if problem is None:
            try:
                async with asyncio.timeout(self._body_seconds):
                    body = await self._read(receive)
            except TimeoutError:
                problem = Problem(
                    408, "body_timeout", f"The body did not arrive within {self._body_seconds:g} s.", headers=_CLOSE
                )
        if body is None:
            return  # the client hung up; nobody is left to answer
        if problem is None and len(body) > self._max_body:
            problem = self._too_large()
        if problem is not None:
            await send_problem(send, problem)
            return
        token = deadline.set(time.monotonic() + budget)
        try:
            await self._app(scope, _replay(body, receive), send)
        finally:
            deadline.reset(token)

    def _declared_too_large(self, length: bytes) -> Problem | None:
        return self._too_large() if length.isdigit() and int(length) > self._max_body else None

    def _too_large(self) -> Problem:
        # The rest of the body is not worth reading, so the connection ends here.
        detail = f"The body is over {self._max_body:,} bytes."
        return Problem(413, "body_too_large", detail, headers=_CLOSE)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or a little more than the limit, or None when the client left."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            chunks.append(chunk)
            if size > self._max_body or not message.get("more_body", False):
                return b"".join(chunks)


_DEADLINE = DEADLINE_HEADER.lower().encode()
_READ = {b"content-length", _DEADLINE}
_CLOSE = {"Connection": "close"}


def _budget(value: bytes) -> float:
    """Seconds; a header that is not a number is ignored, as an unknown header would be."""
    return min(int(value) / 1000, MAX_SECONDS) if value.isdigit() and len(value) < 10 else MAX_SECONDS


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def once() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once
