"""The engine of subscriptions, inside the relay process: one follower for each webhook and each internal handler whose
lease this process has. Any number of relays may run; each subscription is in one's hands.

It is woken: by the sequencer when events got positions, by a nudge when somebody changed a subscription or wants
letters tried. It looks by itself every few seconds, for what a lost nudge would cost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import aiohttp
from django.db import DatabaseError
from opentelemetry import metrics

from apps.events import nudges, queries
from apps.events.subscriptions import handlers, sending, store
from apps.events.subscriptions.condition import ConditionError
from apps.events.subscriptions.follower import Follower, delivered, failed
from apps.events.subscriptions.handlers import REGISTERED, Handler
from apps.events.subscriptions.locked import Unreadable
from apps.events.subscriptions.models import MAX_ERROR, Subscription
from apps.events.subscriptions.store import Lost, Tail
from apps.lib import clock
from apps.lib.addresses import Guard
from apps.lib.aio import end, in_thread
from apps.lib.wire import LOG_CHANNEL, SUBSCRIPTIONS_CHANNEL
from services.kit.events.pump import Trouble

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
behind = meter.create_gauge("mc.subscriptions.behind", description="Positions that a subscription has not settled")
breaker = meter.create_gauge("mc.subscriptions.breaker", description="0 closed, 1 half-open, 2 open")
faults = meter.create_counter("mc.subscriptions.faults", description="Times that a subscription came to a stop")

POLL_S: Final = 5.0
AGAIN_S: Final = 15.0
"""Before a subscription that came to a stop is begun anew."""
MEASURE_EVERY_S: Final = 10.0
CONNECTIONS: Final = 200
"""To all endpoints together."""
BREAKERS: Final = {"closed": 0, "half-open": 1, "open": 2}


class Part(Protocol):
    """What delivers for one subscription."""

    row: Subscription
    revision: int

    def ring(self) -> None: ...
    def stop(self) -> None: ...
    async def run(self) -> None: ...


class Inside:
    """Calls one internal handler for its events."""

    def __init__(self, row: Subscription, holder: str, handler: Handler, tail: Tail) -> None:
        self.row, self.revision = row, row.revision
        self._holder, self._handler, self._tail = holder, handler, tail
        self._position = row.position
        self._bell = asyncio.Event()
        self._stopping = False
        self._database = Trouble("The database", f"the handler {row.name} stands still")

    def ring(self) -> None:
        """There may be something to do."""
        self._bell.set()

    def stop(self) -> None:
        """End after the step in hand."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Handle until stopped, or until the lease is lost."""
        while not self._stopping:
            self._bell.clear()
            try:
                pause = await self._step()
            except DatabaseError as error:
                pause = self._database.begins(error)
            except Lost:
                return
            if pause != 0.0 and not self._stopping:
                await wait(self._bell, pause)

    async def _step(self) -> float | None:
        found = await in_thread(handlers.step, self.row, self._holder, self._handler, self._tail, self._position)
        self._database.is_over()
        self._position = found.position
        if found.delivered:
            delivered.add(found.delivered, {"subscription": self.row.name})
        if found.failed:
            failed.add(found.failed, {"subscription": self.row.name, "reason": "handler"})
        if found.stale:
            self._stopping = True
        if found.moved:
            return 0.0
        return None if found.next_due is None else max(found.next_due - clock.wall(), 0.1)


class Engine:
    """Runs until told to stop."""

    def __init__(self, redis_url: str, guard: Guard, version: str, origin: str) -> None:
        self._redis_url, self._guard, self._version, self._origin = redis_url, guard, version, origin
        self._holder = f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._tail = Tail()
        self._head = 0
        self._parts: dict[int, tuple[Part, asyncio.Task[None]]] = {}
        self._not_before: dict[int, float] = {}
        self._stopping = False
        self._bell, self._grown, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._database = Trouble("The database", "subscriptions stand still")
        self._measure_at = 0.0

    def ring(self) -> None:
        """Events got positions in this process."""
        for part, _ in self._parts.values():
            part.ring()

    def stop(self) -> None:
        """End when what is under way has ended, or a few seconds later."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        listeners = [
            asyncio.create_task(nudges.listen(self._redis_url, self._grown, LOG_CHANNEL), name="log nudges"),
            asyncio.create_task(nudges.listen(self._redis_url, self._changed, SUBSCRIPTIONS_CHANNEL), name="nudges"),
            asyncio.create_task(self._hear(self._grown, self._look), name="the log grew"),
            asyncio.create_task(self._hear(self._changed, self._change), name="subscriptions changed"),
        ]
        try:
            async with sending.session(self._version, self._guard, CONNECTIONS) as http:
                prepared = False
                while not self._stopping:
                    self._bell.clear()
                    try:
                        if not prepared:
                            await in_thread(handlers.ensure)
                            prepared = True
                        await self._turn(http)
                        self._database.is_over()
                        pause = POLL_S
                    except DatabaseError as error:
                        pause = self._database.begins(error)
                    await wait(self._bell, pause)
                await self._end()
        finally:
            await end(*listeners, *(task for _, task in self._parts.values()))

    async def _hear(self, bell: asyncio.Event, then: Callable[[], Awaitable[None]]) -> None:
        while True:
            await bell.wait()
            bell.clear()
            await then()

    async def _look(self) -> None:
        """Another relay may have numbered: its nudge is all that we hear of it."""
        try:
            head = await in_thread(queries.head)
        except DatabaseError:
            return  # the turn says so
        if head > self._head:
            self._head = head
            self.ring()

    async def _change(self) -> None:
        self.ring()
        self._bell.set()

    async def _turn(self, http: aiohttp.ClientSession) -> None:
        now = clock.wall()
        self._reap()
        rows = {row.pk: row for row in await in_thread(store.claim, self._holder, now)}
        for pk, (part, _) in self._parts.items():
            if pk not in rows or rows[pk].revision != part.revision:
                part.stop()
        for pk, row in rows.items():
            if pk not in self._parts and self._not_before.get(pk, 0.0) <= clock.monotonic():
                await self._begin(row, http)
        await self._look()
        for pk in await in_thread(store.overdue, now):
            if pk in self._parts:
                self._parts[pk][0].ring()
        if clock.monotonic() >= self._measure_at:
            self._measure_at = clock.monotonic() + MEASURE_EVERY_S
            for name, positions, state in await in_thread(store.behind):
                behind.set(positions, {"subscription": name})
                breaker.set(BREAKERS[state], {"subscription": name})

    async def _begin(self, row: Subscription, http: aiohttp.ClientSession) -> None:
        part: Part
        if row.kind == Subscription.Kind.INTERNAL:
            if row.name not in REGISTERED:
                return
            part = Inside(row, self._holder, REGISTERED[row.name], self._tail)
        else:
            try:
                part = Follower(row, self._holder, http, self._tail, self._origin)
            except (ConditionError, Unreadable) as error:
                await self._stands(row, error)
                return
        task = asyncio.create_task(part.run(), name=f"subscription {row.name}")
        task.add_done_callback(lambda _: self._bell.set())
        self._parts[row.pk] = (part, task)

    def _reap(self) -> None:
        """What has ended by itself is begun anew, at once or, when it came to a stop, later."""
        for pk, (part, task) in list(self._parts.items()):
            if task.done():
                del self._parts[pk]
                if (error := task.exception()) is not None:
                    log.error("Subscription %s came to a stop", part.row.name, exc_info=error)
                    faults.add(1, {"subscription": part.row.name})
                    self._not_before[pk] = clock.monotonic() + AGAIN_S

    async def _stands(self, row: Subscription, error: Exception) -> None:
        faults.add(1, {"subscription": row.name})
        self._not_before[row.pk] = clock.monotonic() + AGAIN_S
        await in_thread(
            Subscription.objects.filter(pk=row.pk, holder=self._holder).update, last_error=str(error)[:MAX_ERROR]
        )

    async def _end(self) -> None:
        for part, _ in self._parts.values():
            part.stop()
        if self._parts:
            await asyncio.wait([task for _, task in self._parts.values()])
        self._reap()
        try:
            await in_thread(store.release_all, self._holder)
        except DatabaseError:
            pass  # others wait for the lease to end


async def wait(bell: asyncio.Event, wait_s: float | None) -> None:
    """Until ``bell`` rings, or ``wait_s`` seconds have passed; None waits for the bell alone."""
    try:
        async with asyncio.timeout(wait_s):
            await bell.wait()
    except TimeoutError:
        pass
