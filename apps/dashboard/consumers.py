"""One browser's socket: who may listen, what its frames mean, and why it is closed. See docs/live-protocol.md.

Owns the WebSocket's life; the hub owns what is sent.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any, ClassVar
from urllib.parse import parse_qs

from autobahn.exception import Disconnected
from channels.auth import get_user
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError
from opentelemetry import metrics

from apps.dashboard.feed import feed
from apps.dashboard.frames import (
    FULL,
    MALFORMED,
    NOT_ALLOWED,
    RESTARTING,
    SILENT,
    TOO_CHATTY,
    TOPICS,
    Ack,
    FrameError,
    read,
    read_topics,
)
from apps.dashboard.hub import Subscriber
from apps.lib import roles
from apps.lib.aio import in_thread
from apps.lib.clock import monotonic

Session = import_module(settings.SESSION_ENGINE).SessionStore
"""Reads a session anew: the one that the handshake loaded would never hear of a logout."""

SILENCE = 60.0
"""Seconds that frames may wait for an acknowledgement."""
SWEEP = 15.0
"""Seconds between looks at a socket's silence and at whether its user may still listen."""
CHATTER = 20.0
"""Frames a second that a browser may send, with as many saved up as a burst of three seconds."""

_closed = metrics.get_meter("mission-control").create_counter(
    "mc.live.closed", unit="{connection}", description="Live connections ended by the server, by close code"
)


class LiveConsumer(AsyncWebsocketConsumer):
    """``/ws/live``."""

    subscriber: Subscriber | None = None
    sweeper: asyncio.Task[None] | None = None
    open: ClassVar[set[LiveConsumer]] = set()

    @classmethod
    async def end_all(cls) -> None:
        """The server is going down: say so to every browser, so that they come back soon."""
        for consumer in tuple(cls.open):
            await consumer._end(RESTARTING, "The server is restarting.")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.open.add(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._forget()
            self.open.discard(self)

    async def connect(self) -> None:
        await self.accept()
        live = feed()
        if not await in_thread(_may_listen, self.scope.get("user")):
            await self._end(NOT_ALLOWED, "Log in with a role to listen.")
            return
        if live.hub.full:
            await self._end(FULL, "This server has as many listeners as it can serve.")
            return
        try:
            topics, epoch, seq = _wishes(self.scope["query_string"])
        except FrameError as error:
            await self._end(error.code, str(error))
            return
        self.saved, self.spent_at = CHATTER * 3, monotonic()
        subscriber = self.subscriber = Subscriber(self._say, live.hub, topics)
        live.hub.subscribers.add(subscriber)
        self.sweeper = asyncio.create_task(self._sweep(subscriber))
        if not await live.ready_for_browser():
            await self._end(FULL, "No fresh state can be had; the page shows what it was drawn with.")
        elif self.subscriber is not None:
            await subscriber.begin(epoch, seq)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        subscriber = self.subscriber
        if subscriber is None:
            return
        try:
            self._spend()
            frame = read(text_data)
            if isinstance(frame, Ack):
                await subscriber.ack(frame)
            else:
                await subscriber.subscribe(frame.topics)
        except FrameError as error:
            await self._end(error.code, str(error))

    async def disconnect(self, code: int) -> None:
        self._forget()

    async def _say(self, text: str) -> None:
        try:
            await self.send(text_data=text)
        except (OSError, Disconnected):
            # The browser has gone and its disconnect message is on the way: nobody else may suffer for that.
            self._forget()

    def _spend(self) -> None:
        now = monotonic()
        self.saved = min(CHATTER * 3, self.saved + (now - self.spent_at) * CHATTER) - 1
        self.spent_at = now
        if self.saved < 0:
            raise FrameError(TOO_CHATTY, f"More than {CHATTER:.0f} frames a second.")

    async def _sweep(self, subscriber: Subscriber) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            if subscriber.waiting and monotonic() - subscriber.heard_at > SILENCE:
                await self._end(SILENT, f"No acknowledgement for {SILENCE:.0f} s.")
                return
            try:
                user = await get_user(self.scope | {"session": Session(self.scope["session"].session_key)})
                allowed = await in_thread(_may_listen, user)
            except DatabaseError:
                continue  # Who may listen is not known now; the next sweep asks again.
            if not allowed:
                await self._end(NOT_ALLOWED, "The session has ended.")
                return

    async def _end(self, code: int, reason: str) -> None:
        if self not in self.open:
            return
        self.open.discard(self)
        self._forget()
        feed().hub.counts[f"closed_{code}"] += 1
        _closed.add(1, {"code": code})
        # A close frame has room for 123 bytes of reason (RFC 6455 section 5.5).
        await self.close(code=code, reason=reason.encode()[:120].decode(errors="ignore"))

    def _forget(self) -> None:
        if self.subscriber is not None:
            feed().hub.subscribers.discard(self.subscriber)
            self.subscriber = None
        if self.sweeper is not None and self.sweeper is not asyncio.current_task():
            self.sweeper.cancel()
        self.sweeper = None


def _may_listen(user: Any) -> bool:
    return roles.has(user, roles.VIEWER)


def _wishes(query: bytes) -> tuple[frozenset[str], str, int | None]:
    """Topics, epoch and seq of the query string; FrameError when they can't be read."""
    try:
        fields = parse_qs(query.decode("ascii"), max_num_fields=10)
    except ValueError:
        raise FrameError(MALFORMED, "The query can't be read.") from None
    topics = read_topics(fields["topics"][0].split(",")) if "topics" in fields else TOPICS
    seq = fields.get("seq", [""])[0]
    if seq and not (seq.isascii() and seq.isdigit() and len(seq) < 16):
        raise FrameError(MALFORMED, "The seq to resume from is not a number.")
    return topics, fields.get("epoch", [""])[0], int(seq) if seq else None


class Nowhere(AsyncWebsocketConsumer):
    """Any other address: refused at the handshake, where an unrouted one would be a traceback."""

    async def connect(self) -> None:
        await self.close()
