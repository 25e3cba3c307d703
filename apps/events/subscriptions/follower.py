"""Delivers the events of one webhook, in order per key, until it is told to stop or loses its lease.

A thin shell around ``core``: it reads, sends and stores, and asks there what to do. A delivery that is cut off goes
again later: at least once, and receivers know an event again by its ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from django.db import DatabaseError
from opentelemetry import metrics

from apps.events.letters import queue
from apps.events.subscriptions import locked, sending, signature, store
from apps.events.subscriptions.core import Desk, Health, Item, Outcome, Verdict, after, dead
from apps.events.subscriptions.matching import wanted_by
from apps.events.subscriptions.models import Subscription
from apps.events.subscriptions.store import Lost, Tail, Work, seconds
from apps.lib import clock
from apps.lib.aio import in_thread
from services.kit.events.pump import Trouble

meter = metrics.get_meter(__name__)
delivered = meter.create_counter("mc.subscriptions.delivered", description="Events that a subscription took")
failed = meter.create_counter("mc.subscriptions.failed", description="Attempts that failed, by class")
odd = meter.create_counter("mc.subscriptions.odd", description="Events on which a filter had no answer")
duration = meter.create_histogram("mc.subscriptions.duration", unit="s", description="How long an attempt takes")

SAVE_S: Final = 5.0
"""How long a position that moved past what is not wanted waits to be stored."""
DRAIN_S: Final = 5.0
"""What deliveries under way are given at a stop."""
TRIM_EVERY: Final = 100
WINDOW_S: Final = 5.0
"""Over which deliveries a second are counted."""
LEAST_ROOM: Final = 16


def keys_of(row: Subscription, now: float) -> tuple[bytes, ...]:
    """What signs its requests at ``now``; Unreadable."""
    places = [row.secret]
    if row.previous_secret and seconds(row.previous_until) > now:
        places.append(row.previous_secret)
    return tuple(signature.key_of(locked.unlock(one, row.name)) for one in places if one)


@dataclass(slots=True)
class Flight:
    """One request under way; without an item it asks for permission."""

    item: Item | None


class Follower:
    """One webhook. ``ring`` when the log has grown, a letter may be due, or it is to stop."""

    def __init__(self, row: Subscription, holder: str, http: aiohttp.ClientSession, tail: Tail, origin: str) -> None:
        self.row, self.revision = row, row.revision
        self._holder, self._http, self._tail, self._origin = holder, http, tail, origin
        self._wanted = wanted_by(row)
        rates = [rate for rate in (row.rate, row.allowed_rate) if rate]
        self._desk = Desk(row.position, min(rates, default=0.0))
        self._health = Health(row.failures, seconds(row.failing_since), seconds(row.opened_until))
        self._allowed = not row.handshake or row.allowed_at is not None
        self._room = max(2 * row.concurrency, LEAST_ROOM)
        self._flights: dict[asyncio.Task[Outcome | sending.Permission], Flight] = {}
        self._work = Work()
        self._bell = asyncio.Event()
        self._stopping = False
        self._more = True
        self._due_at: float | None = 0.0
        self._stored, self._save_at = row.position, 0.0
        self._database = Trouble("The database", f"deliveries to {row.name} stand still")
        self._counted, self._window_at, self._pace = 0, clock.monotonic(), row.pace
        self._untrimmed = TRIM_EVERY

    def ring(self) -> None:
        """There may be something to do."""
        self._more = True
        self._due_at = 0.0
        self._bell.set()

    def stop(self) -> None:
        """End when what is under way has ended, or DRAIN_S later."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Deliver until stopped, or until the lease is lost; Unreadable when its secret can't be read."""
        try:
            while not self._stopping:
                self._bell.clear()
                await self._turn()
            await self._drain()
        except Lost:
            pass
        finally:
            await self._cut()

    async def _turn(self) -> None:
        self._collect()
        try:
            await self._save()
            await self._read()
        except DatabaseError as error:
            await self._pause(self._database.begins(error))
            return
        self._database.is_over()
        if not self._stopping:
            self._start()
            await self._pause(self._until(clock.wall()))

    def _until(self, now: float) -> float | None:
        """Seconds until there is something to do by itself; None when nothing comes by itself."""
        times: list[float | None] = []
        if self._health.opened_until > now:
            # Nothing goes before, whatever is due.
            times.append(self._health.opened_until)
        elif self._allowed:
            if self._more and self._desk.waiting < self._room // 2:
                return 0.0
            times.append(self._desk.wake(now))
            if self._desk.waiting < 2 * self._room:
                times.append(self._due_at)
        elif not self._flights:
            return 0.0
        if self._stored < self._desk.position:
            times.append(self._save_at + SAVE_S)
        found = [max(at - now, 0.0) for at in times if at is not None]
        return min(found, default=None)

    # -- what came of flights -----------------------------------------------------------------------

    def _collect(self) -> None:
        for task in [task for task in self._flights if task.done()]:
            flight = self._flights.pop(task)
            found = task.result()
            now = clock.wall()
            if isinstance(found, sending.Permission):
                self._permitted(found, now)
            elif flight.item is not None:
                self._landed(flight.item, found, now)

    def _permitted(self, found: sending.Permission, now: float) -> None:
        if found.granted:
            self._allowed, self._health = True, Health()
            self._work.allowed = (now, found.rate)
            if found.rate and not (self.row.rate and self.row.rate < found.rate):
                self._desk.rate = found.rate
            return
        verdict = Verdict.GONE if found.outcome.verdict is Verdict.GONE else Verdict.REST
        self._failed(Outcome(verdict, found.outcome.reason, found.outcome.error), now)
        self._work.error = f"no permission yet: {found.outcome.error}"[:500]

    def _landed(self, item: Item, outcome: Outcome, now: float) -> None:
        self._work.tried.append((item, outcome))
        duration.record(outcome.took_s, {"subscription": self.row.name})
        if outcome.verdict is Verdict.TAKEN:
            self._health = Health()
            self._desk.done(item)
            self._work.ended.append((item, outcome))
            self._count()
            return
        failed.add(1, {"subscription": self.row.name, "reason": outcome.reason})
        self._failed(outcome, now)
        if outcome.verdict in {Verdict.REST, Verdict.GONE}:
            self._desk.back(item)
            return
        self._work.parked += self._desk.fell(item)
        self._work.ended.append((item, outcome))

    def _failed(self, outcome: Outcome, now: float) -> None:
        self._health = after(self._health, outcome, now, random.random())  # noqa: S311 - jitter, not a secret
        if outcome.verdict is Verdict.GONE:
            self._work.disable = "The endpoint answered 410: it wants no more events."
        elif dead(self._health, now, self.row.max_age_s):
            self._work.disable = f"The endpoint has failed for too long, at last: {outcome.error}"[:500]

    def _count(self) -> None:
        delivered.add(1, {"subscription": self.row.name})
        self._counted += 1
        passed = clock.monotonic() - self._window_at
        if passed >= WINDOW_S:
            self._pace = self._counted / passed
            self._counted, self._window_at = 0, clock.monotonic()

    # -- rows ---------------------------------------------------------------------------------------

    async def _save(self, *, position: bool = False) -> None:
        """Store what has come of it; the position alone now and then."""
        now = clock.wall()
        moved = self._stored < self._desk.position
        if not self._work and not (moved and (position or now >= self._save_at + SAVE_S)):
            return
        # What lands meanwhile is the next save's.
        work, place = self._work, self._desk.position
        self._work = Work()
        try:
            await in_thread(store.store, self.row, self._holder, work, place, self._health, self._pace, now)
        except BaseException:
            self._work = merged(work, self._work)
            raise
        self._stored, self._save_at = place, now
        letters = {item.letter.pk for item, _ in work.ended if item.letter is not None}
        self._desk.settled(letters, {item.key for item, _ in work.ended})
        if any(item.letter is not None or outcome.verdict is not Verdict.TAKEN for item, outcome in work.ended):
            self._due_at = 0.0
        self._untrimmed += len(work.tried)
        if self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            await in_thread(store.trim, self.row.pk)
        if work.disable:
            raise Lost

    async def _read(self) -> None:
        now = clock.wall()
        if not self._allowed or not self._health.most(now, 1):
            return
        waiting = self._desk.waiting
        room = self._room - waiting if self._more and waiting <= self._room // 2 else 0
        due = self._due_at is not None and self._due_at <= now and waiting < 2 * self._room
        retries = self.row.concurrency if due else 0
        if not room and not retries:
            return
        found = await in_thread(store.read, self.row, self._wanted, self._tail, self._desk.read, room, retries, now)
        if found.stale:
            self._stopping = True
            return
        if retries:
            self._due_at = found.next_due
            for item in found.letters:
                if not self._desk.knows(item.letter.pk):
                    self._desk.retry(item)
            if found.letters and found.next_due is not None and found.next_due <= now:
                # More are due than were taken: these first.
                self._due_at = None
        if room:
            self._more = found.more
            self._work.parked += self._desk.add(found.fresh, found.position)
            self._work.odd += found.odd
            if found.full:
                self._work.error = (
                    f"{queue.MAX_OPEN:,} dead letters are open: nothing is read until some are dealt with."
                )
            if found.odd:
                odd.add(found.odd, {"subscription": self.row.name})

    # -- flights ------------------------------------------------------------------------------------

    def _start(self) -> None:
        now = clock.wall()
        most = self._health.most(now, self.row.concurrency)
        if not self._allowed:
            if most and not self._flights:
                self._fly(sending.permission(self._http, self._endpoint(now), self._origin, self.row.rate), None)
            return
        while (item := self._desk.next(now, most, probing=self._health.probing)) is not None:
            event = (item.letter or item.event).as_cloudevent()
            self._fly(sending.deliver(self._http, event, self._endpoint(now)), item)

    def _endpoint(self, now: float) -> sending.Endpoint:
        structured = self.row.mode == Subscription.Mode.STRUCTURED
        return sending.Endpoint(self.row.url, keys_of(self.row, now), structured, self.row.timeout_s, self.row.name)

    def _fly(self, work: Coroutine[Any, Any, Outcome | sending.Permission], item: Item | None) -> None:
        task = asyncio.create_task(work, name=f"deliver to {self.row.name}")
        self._flights[task] = Flight(item)
        task.add_done_callback(lambda _: self._bell.set())

    async def _drain(self) -> None:
        if self._flights:
            await asyncio.wait(self._flights, timeout=DRAIN_S)
        self._collect()
        try:
            await self._save(position=True)
        except DatabaseError:
            return  # what was sent goes again

    async def _cut(self) -> None:
        for task in self._flights:
            task.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)

    async def _pause(self, wait_s: float | None) -> None:
        if wait_s == 0.0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._bell.wait()
        except TimeoutError:
            pass


def merged(first: Work, then: Work) -> Work:
    """Both, in this order."""
    return Work(
        first.ended + then.ended,
        first.tried + then.tried,
        first.parked + then.parked,
        first.odd + then.odd,
        then.disable or first.disable,
        then.allowed or first.allowed,
        then.error or first.error,
    )
