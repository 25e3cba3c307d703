"""The relay: takes events from the outbox to the bus, in order, until it is told to stop.

Knows the outbox and the Transport seam, and no broker. While the bus is away it waits, with growing
pauses, and keeps every row; it says so once when the bus goes and once when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from dataclasses import dataclass

import redis.asyncio
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from opentelemetry import metrics
from redis.exceptions import RedisError

from apps.events import outbox
from apps.events.models import Event
from apps.lib import alive, clock, kv
from apps.lib.aio import in_thread
from apps.lib.wire import OUTBOX_CHANNEL
from services.kit.events.retry import Backoff
from services.kit.events.transport.base import Outgoing, Transport, TransportAway

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
relayed = meter.create_counter("mc.relay.events", description="Events handed to the bus, by outcome")
waiting = meter.create_gauge("mc.relay.outbox.waiting", description="Events that wait in the outbox")
oldest_s = meter.create_gauge("mc.relay.outbox.oldest", unit="s", description="Age of the oldest event that waits")
trimmed = meter.create_gauge("mc.bus.trimmed", description="Events that left the bounded log since the start")
lost = meter.create_gauge("mc.bus.lost", description="Events that left the log before some group had read them")

BATCH = 500
POLL_S = 1.0
"""How long a lost nudge can cost."""
PAUSES = Backoff(first_s=1.0, most_s=15.0)
MEASURE_EVERY_S = 10.0


@dataclass(slots=True)
class _Trouble:
    """Something is away: since when is said once, and pauses grow until it is back."""

    what: str
    tries: int = 0

    def begins(self, error: Exception) -> float:
        """Seconds to wait now, with jitter."""
        if not self.tries:
            log.warning("%s is away (%s): events wait in the outbox.", self.what, error)
        self.tries += 1
        return PAUSES.pause(self.tries, random.random())  # noqa: S311 - jitter, not a secret

    def is_over(self) -> None:
        if self.tries:
            log.warning("%s is back.", self.what)
        self.tries = 0


class Relay:
    """One relay. ``run`` returns after ``stop``, when the batch in hand is settled."""

    def __init__(self, transport: Transport, redis_url: str) -> None:
        self._transport = transport
        self._redis_url = redis_url
        self._holder = f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stopping = asyncio.Event()
        self._nudged = asyncio.Event()
        self._bus = _Trouble("The bus")
        self._database = _Trouble("The database")
        self._alive_at = self._measure_at = 0.0

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping.set()
        self._nudged.set()

    async def run(self) -> None:
        """Relay until stopped."""
        listener = asyncio.create_task(self._listen(), name="outbox nudges")
        ready = False
        try:
            while not self._stopping.is_set():
                try:
                    if not ready:
                        await in_thread(outbox.prepare)
                        ready = True
                    await self._show_life()
                    self._nudged.clear()
                    count = await self._pass()
                    await self._measure()
                    self._database.is_over()
                    pause = 0.0 if count else POLL_S
                except DatabaseError as error:
                    pause = self._database.begins(error)
                except TransportAway as error:
                    pause = self._bus.begins(error)
                await self._sleep(pause)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _pass(self) -> int:
        """Send one batch; how many events it held."""
        events = await in_thread(self._claim)
        if not events:
            return 0
        try:
            outcomes = await self._transport.publish([Outgoing(event.as_cloudevent()) for event in events])
        except TransportAway:
            relayed.add(len(events), {"outcome": "away"})
            await in_thread(outbox.release, self._holder)
            raise
        self._bus.is_over()
        sent = [event.pk for event, refused in zip(events, outcomes, strict=True) if refused is None]
        refused = {event.pk: str(why) for event, why in zip(events, outcomes, strict=True) if why is not None}
        await in_thread(outbox.settle, self._holder, sent, refused, clock.wall())
        relayed.add(len(sent), {"outcome": "sent"})
        if refused:
            relayed.add(len(refused), {"outcome": "refused"})
            log.warning("The bus refused %d events, the first because: %s", len(refused), next(iter(refused.values())))
        return len(events)

    def _claim(self) -> list[Event]:
        close_old_connections()
        return outbox.claim(self._holder, clock.wall(), BATCH)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not past a stop; while all is well also not past a nudge, nor past the next sign of life."""
        if not seconds:
            return
        trouble = self._bus.tries or self._database.tries
        event = self._stopping if trouble else self._nudged
        deadline = clock.monotonic() + seconds
        while not event.is_set() and (left := deadline - clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, alive.EVERY_S)):
                    await event.wait()
            except TimeoutError:
                await self._show_life()

    async def _show_life(self) -> None:
        now = clock.monotonic()
        if now >= self._alive_at:
            self._alive_at = now + alive.EVERY_S
            await in_thread(alive.refresh, self._redis_url, settings.WIRE, "relay")

    async def _measure(self) -> None:
        now = clock.monotonic()
        if now < self._measure_at:
            return
        self._measure_at = now + MEASURE_EVERY_S
        backlog = await in_thread(outbox.backlog)
        waiting.set(backlog.waiting)
        oldest_s.set(max(clock.wall() - backlog.oldest, 0.0) if backlog.oldest else 0.0)
        stats = self._transport.stats()
        trimmed.set(stats.trimmed)
        lost.set(stats.lost)

    async def _listen(self) -> None:
        """Turn nudges into the event that ends the pause. Without Redis the poll alone does the work."""
        while True:
            try:
                await self._listen_once(kv.async_client(self._redis_url, socket_timeout=None))
            except (RedisError, OSError):
                await asyncio.sleep(POLL_S * 2)

    async def _listen_once(self, client: redis.asyncio.Redis) -> None:
        async with client, client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(OUTBOX_CHANNEL)
            async for _ in channel.listen():
                self._nudged.set()
