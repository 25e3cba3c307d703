"""The pump: takes events from an outbox to the broker, in order, until it is told to stop.

Knows the outbox's store and the Transport seam, and neither a database nor a broker. While one of them is
away it waits, with growing pauses, and every row stays; it says so once when that begins and once when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from opentelemetry import metrics

from . import losses
from .outbox import Backlog, OutboxStore, Row, judge
from .retry import Away, Backoff
from .signing import Keys, NoKey
from .transport.base import Outgoing, Rejected, Transport, TransportAway, Waits

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
offered = meter.create_counter("mc.outbox.events", description="Events offered to the broker, by outcome")
waiting = meter.create_gauge("mc.outbox.waiting", description="Events that wait in the outbox")
oldest_s = meter.create_gauge("mc.outbox.oldest", unit="s", description="Age of the oldest event that waits")
broker_waiting = meter.create_gauge("mc.outbox.broker.waiting", description="Events that wait, by broker")
broker_oldest_s = meter.create_gauge("mc.outbox.broker.oldest", unit="s", description="Age of the oldest, by broker")

BATCH: Final = 500
FRESH_S: Final = 5.0
"""What was claimed longer ago, for something took its time meanwhile, is claimed anew: its lease may be nearly over."""
POLL_S: Final = 5.0
"""How long a lost nudge can cost."""
AGAIN_S: Final = 1.0
"""Between two looks while something may wait for its time."""
PAUSES: Final = Backoff(first_s=1.0, most_s=15.0)
MEASURE_EVERY_S: Final = 10.0
MEASURE_SHARE: Final = 0.05
"""Of the time that may go into measuring: what waits is counted, and there may be millions."""
FORGET_EVERY_S: Final = 60.0
FORGET_MOST: Final = 5000


class Trouble:
    """Something is away: since when is said once, and pauses grow until it is back."""

    def __init__(self, what: str, then: str) -> None:
        self._what, self._then = what, then
        self.tries = 0
        self.why = ""
        """What it said last; "" while it answers."""

    def begins(self, error: Exception) -> float:
        """Seconds to wait now."""
        if not self.tries:
            log.warning("%s is away (%s): %s.", self._what, error, self._then)
        self.tries += 1
        self.why = str(error)
        return PAUSES.pause(self.tries, random.random())  # noqa: S311 - jitter, not a secret

    def is_over(self) -> None:
        """It answers again."""
        if self.tries:
            log.warning("%s is back.", self._what)
        self.tries, self.why = 0, ""


class Pump:
    """One pump. ``run`` returns after ``stop``, when the batch in hand is settled.

    Events leave signed by the newest of ``keys`` that speaks for ``speaker``; without one they wait, as for a bus.
    ``each`` is called after every turn, and at least every ``each_s`` seconds while there is nothing to do: where a
    process shows that it lives by its work. Sent rows are forgotten after ``keep_s`` seconds; None leaves that to
    somebody else.
    """

    def __init__(
        self,
        store: OutboxStore,
        transport: Transport,
        keys: Keys,
        speaker: str,
        *,
        each: Callable[[], Awaitable[None]] | None = None,
        each_s: float = 3.0,
        keep_s: float | None = None,
    ) -> None:
        self._store = store
        self._transport = transport
        self._keys = keys
        self._speaker = speaker
        self._each = each
        self._each_s = each_s
        self._keep_s = keep_s
        self._stopping = asyncio.Event()
        self.bell = asyncio.Event()
        """Rung when there may be something to send. It looks by itself too, so a ring may be lost."""
        self._bus = Trouble("The bus", "events wait in the outbox")
        self._database = Trouble("The database", "the outbox can't be read")
        self._measure_at = self._forget_at = 0.0
        self._brokers: set[str] = set()
        """Those of which something was told: what waits no more is told as well."""
        self._next: Sequence[Row] = ()
        """Claimed when the batch before them was settled."""
        self._claimed_at = 0.0
        self._put_off = False
        """Something may wait for its time, though there is nothing to claim."""
        self.oldest: float | None = None
        """When the oldest event was written that waited at the last look (wall clock)."""

    @property
    def why(self) -> str:
        """Why the bus takes nothing; "" while it does."""
        return self._bus.why

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping.set()
        self.bell.set()

    async def run(self) -> None:
        """Pump until stopped; what waits then is looked for once more."""
        last = False
        while not last:
            last = self._stopping.is_set()
            self.bell.clear()
            try:
                pause = 0.0 if await self._turn() else AGAIN_S if self._put_off else POLL_S
                await self._measure()
                self._database.is_over()
            except Away as error:
                self._next = ()
                pause = self._database.begins(error)
            except TransportAway as error:
                pause = self._bus.begins(error)
            if self._each is not None:
                await self._each()
            await self._sleep(pause)

    async def _turn(self) -> int:
        """Send one batch; how many events it held."""
        rows = self._next if time.monotonic() - self._claimed_at < FRESH_S else ()
        self._next = ()
        rows = rows or await self._store.claim(time.time(), BATCH)
        if not rows:
            if not self._put_off:
                self.oldest = None
            return 0
        self.oldest = rows[0].event.time
        try:
            answers = await self._offer(rows)
        except TransportAway:
            offered.add(len(rows), {"outcome": "away"})
            await self._store.release()
            raise
        self._bus.is_over()
        settlement = judge(rows, answers, time.time(), random.random)
        if self._stopping.is_set():
            await self._store.settle(settlement, time.time())
        else:
            self._claimed_at = time.monotonic()
            self._next = await self._store.claim(time.time(), BATCH, settlement)
        self._put_off = self._put_off or bool(settlement.put_off)
        offered.add(len(settlement.sent), {"outcome": "sent"})
        refused = [answer for answer in answers if isinstance(answer, Rejected)]
        if waits := len(rows) - len(settlement.sent) - len(refused):
            offered.add(waits, {"outcome": "waits"})
        if refused:
            offered.add(len(refused), {"outcome": "refused"})
            log.warning("The bus refused %d events, the first because: %s", len(refused), refused[0])
        return len(rows)

    async def _offer(self, rows: Sequence[Row]) -> list[Rejected | Waits | None]:
        """The broker's answers, and our own for what every reader would call forged."""
        answers: list[Rejected | Waits | None] = [
            None
            if self._keys.may_speak(self._speaker, row.event.source)
            else Rejected(f"{self._speaker} may not speak for {row.event.source}: readers would take it for forged.")
            for row in rows
        ]
        ours = [row for row, refused in zip(rows, answers, strict=True) if refused is None]
        if ours:
            given = iter(await self._transport.publish([self._signed(row) for row in ours]))
            answers = [next(given) if refused is None else refused for refused in answers]
        return answers

    def _signed(self, row: Row) -> Outgoing:
        try:
            return Outgoing(self._keys.sign(row.event, self._speaker), row.topic)
        except NoKey as error:
            raise TransportAway(str(error)) from None

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not past a stop; while all is well also not past a nudge, nor past the next turn of ``each``."""
        trouble = self._bus.tries or self._database.tries
        event = self._stopping if trouble else self.bell
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set() and not event.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, self._each_s)):
                    await event.wait()
            except TimeoutError:
                if self._each is not None:
                    await self._each()

    async def _measure(self) -> None:
        now = time.monotonic()
        if now >= self._measure_at:
            backlog = await self._store.backlog()
            await self._measure_brokers(backlog)
            self._measure_at = now + max(MEASURE_EVERY_S, (time.monotonic() - now) / MEASURE_SHARE)
            self.oldest, self._put_off = backlog.oldest, backlog.waiting > 0
            waiting.set(backlog.waiting)
            oldest_s.set(max(time.time() - backlog.oldest, 0.0) if backlog.oldest else 0.0)
            losses.tell(self._transport)
        if self._keep_s is not None and now >= self._forget_at:
            gone = await self._store.forget(time.time() - self._keep_s, FORGET_MOST)
            self._forget_at = now if gone == FORGET_MOST else now + FORGET_EVERY_S

    async def _measure_brokers(self, backlog: Backlog) -> None:
        """By the brokers that have to take it: an event for two of them waits for both."""
        found: dict[str, tuple[int, float]] = dict.fromkeys(self._brokers, (0, math.inf))
        for one in await self._store.waiting() if backlog.waiting else ():
            for kind in self._transport.carriers(one.type):
                count, oldest = found.get(kind, (0, math.inf))
                found[kind] = count + one.count, min(oldest, one.oldest)
        self._brokers |= found.keys()
        for kind, (count, oldest) in found.items():
            broker_waiting.set(count, {"broker": kind})
            broker_oldest_s.set(max(time.time() - oldest, 0.0), {"broker": kind})
