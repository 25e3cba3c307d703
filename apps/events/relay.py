"""The relay: the pump of Mission Control's own outbox, woken by nudges and shown to live by its work."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from django.db import DatabaseError, close_old_connections

from apps.events import nudges, outbox
from apps.lib import alive, clock
from apps.lib.aio import end, in_thread
from services.kit.events.outbox import Backlog, Row, Settlement, Waiting
from services.kit.events.pump import Pump
from services.kit.events.retry import Away
from services.kit.events.signing import CONTROL, Keys
from services.kit.events.transport.base import Transport


class DjangoOutbox:
    """The OutboxStore over Django's tables, as one holder of shards."""

    def __init__(self) -> None:
        self._holder = f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._prepared = False

    async def claim(self, now: float, most: int, settled: Settlement | None = None) -> Sequence[Row]:
        return await self._ask(self._claim, now, most, settled)

    def _claim(self, now: float, most: int, settled: Settlement | None) -> list[Row]:
        close_old_connections()
        if not self._prepared:
            outbox.prepare()
            self._prepared = True
        return outbox.claim(self._holder, now, most, settled)

    async def settle(self, settlement: Settlement, now: float) -> None:
        await self._ask(outbox.settle, self._holder, settlement, now)

    async def release(self) -> None:
        await self._ask(outbox.release, self._holder)

    async def backlog(self) -> Backlog:
        return await self._ask(outbox.backlog)

    async def waiting(self) -> Sequence[Waiting]:
        return await self._ask(outbox.waiting_by_type)

    async def forget(self, before: float, most: int) -> int:
        return await self._ask(outbox.prune, before, most)

    async def _ask(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return await in_thread(call, *args)
        except DatabaseError as error:
            raise Away(str(error)) from error


class Relay:
    """One relay. ``run`` returns after ``stop``, when the batch in hand is settled."""

    def __init__(self, transport: Transport, keys: Keys, redis_url: str) -> None:
        self._redis_url = redis_url
        # What was sent is forgotten by the task events.prune, with the events themselves.
        self._pump = Pump(DjangoOutbox(), transport, keys, CONTROL, each=self._show_life, each_s=alive.EVERY_S)
        self._alive_at = 0.0

    def stop(self) -> None:
        """End after the batch in hand."""
        self._pump.stop()

    async def run(self) -> None:
        """Relay until stopped."""
        listener = asyncio.create_task(nudges.listen(self._redis_url, self._pump.bell), name="outbox nudges")
        try:
            await self._pump.run()
        finally:
            await end(listener)

    async def _show_life(self) -> None:
        now = clock.monotonic()
        if now >= self._alive_at:
            self._alive_at = now + alive.EVERY_S
            await in_thread(alive.refresh, self._redis_url, settings.WIRE, "relay")
