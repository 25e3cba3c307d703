"""Breakers and ejections as others see them: their state and transitions on Redis, and peers opening together.

Redis away costs reports, never a decision; transitions wait in a bounded queue until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import time
from typing import Any

import redis.exceptions

from apps.gateway.core.breaker import FOLLOWED, Change
from apps.gateway.core.outlier import Ejection
from apps.gateway.plane.worker import Worker
from apps.lib import wire
from apps.lib.border import text
from apps.lib.clock import monotonic
from apps.lib.messages import BreakerOpened, BreakerReport, BreakerTransition, Ejected

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
KEPT_TRANSITIONS = 10_000
WAITING = 1000
"""Most transitions kept while Redis is away."""
FORGET_SECONDS = 60.0
ORDER_SECONDS = 30.0
"""How long a peer's word that it opened a breaker counts; clocks may differ by it."""


class Breakers:
    """Reports of one worker's breakers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[tuple[str, Change, float]] = deque()
        self._wake = asyncio.Event()

    def changed(self, service: str, change: Change) -> None:
        """A breaker's listener: note the transition, report soon."""
        worker = self._worker
        at = time() - (monotonic() - change.at)
        log.warning("Breaker of %s: %s to %s. %s", service, change.before, change.after, change.reason)
        worker.metrics.count("mc.gateway.breaker.transitions", f"{service}:{change.after}")
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            worker.metrics.count("mc.gateway.dropped", "breaker_transition")
        self._waiting.append((service, change, at))
        self._wake.set()

    def ejected(self, service: str, ejection: Ejection) -> None:
        """An instance left rotation or came back: report soon."""
        out = ejection.until is not None
        worker = self._worker
        log.warning("%s is %s. %s", ejection.instance, "ejected" if out else "back in rotation", ejection.reason)
        worker.metrics.count("mc.gateway.outlier.ejections" if out else "mc.gateway.outlier.returns", ejection.instance)
        self._wake.set()

    def panicked(self, service: str, panic: bool) -> None:
        """So few instances look fit that all are tried, or it is over: report soon."""
        if panic:
            log.warning("Too few instances of %s look fit: all of them are tried", service)
            self._worker.metrics.count("mc.gateway.panics", service)
        else:
            log.warning("Enough instances of %s look fit: only those are asked", service)
        self._wake.set()

    async def on_opened(self, message: bytes) -> None:
        """A peer opened a breaker: open too."""
        opened = self._worker.border.open(BreakerOpened, message, wire.BREAKER_OPENED, within=ORDER_SECONDS)
        table = self._worker.table
        if opened is None or opened.worker == self._worker.id or table is None or opened.until <= time():
            return
        service = table.services.get(opened.service)
        if service is not None:
            service.breaker.follow(monotonic())

    async def run(self) -> None:
        """Report on change, and every two seconds."""
        cleaned = 0.0
        while True:
            self._wake.clear()
            try:
                await self._report()
                if monotonic() - cleaned > FORGET_SECONDS:
                    cleaned = monotonic()
                    await self._clean()
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                await self._worker.cleared(error)
                await asyncio.sleep(REPORT_SECONDS / 4)  # what waits is sent when Redis is back
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _report(self) -> None:
        worker = self._worker
        if worker.table is None:
            return
        now, wall, border = monotonic(), time(), worker.border
        taken = list(self._waiting)
        # One round trip. Announcing first: peers open while the rest is still being written.
        pipe = worker.redis.pipeline(transaction=False)
        for name, change, at in taken:
            if change.after == "open" and change.reason != FOLLOWED:
                until = (
                    at + worker.table.services[name].breaker.config.wait_in_open
                    if name in worker.table.services
                    else at
                )
                opened: Any = border.close(BreakerOpened(name, worker.id, until, at), wire.BREAKER_OPENED)
                pipe.publish(wire.BREAKER_OPENED, opened)
        for name, change, at in taken:
            told = BreakerTransition(name, worker.id, change.before, change.after, at, change.reason)
            entry: dict[Any, Any] = {"m": border.close(told, wire.BREAKER_TRANSITIONS)}
            pipe.xadd(wire.BREAKER_TRANSITIONS, entry, maxlen=KEPT_TRANSITIONS, approximate=True)
        states: dict[Any, Any] = {}
        for name, service in worker.table.services.items():
            view = service.breaker.view(now)
            field = f"{name}|{worker.id}"
            report = BreakerReport(
                state=view.state,
                since=wall - (now - view.since),
                forced=view.forced,
                calls=view.calls,
                failure_rate=view.failure_rate,
                slow_rate=view.slow_rate,
                retry_at=wall + (view.retry_at - now) if view.retry_at is not None else None,
                at=wall,
                ejected=tuple(
                    Ejected(mark.name, wall - (now - mark.since), wall + (mark.until - now), mark.reason)
                    for mark in service.outliers.ejected()
                ),
                panic=service.panic,
                in_flight=service.gate.in_flight,
                limit=int(service.gate.limit),
            )
            states[field] = border.close(report, wire.BREAKER_STATE, field)
        if states:
            pipe.hset(wire.BREAKER_STATE, mapping=states)
        await pipe.execute()
        for _ in taken:
            self._waiting.popleft()

    async def _clean(self) -> None:
        """Forget workers that are long gone."""
        entries = await self._worker.redis.hgetall(wire.BREAKER_STATE)
        found = self._worker.border.open_all(BreakerReport, entries, wire.BREAKER_STATE)
        old = [one for one in entries if (said := found.get(text(one))) is None or time() - said.at > FORGET_SECONDS]
        if old:
            await self._worker.redis.hdel(wire.BREAKER_STATE, *old)

    async def leave(self) -> None:
        """The worker ends: its breakers are no longer anyone's state."""
        worker = self._worker
        if worker.table is None or not worker.table.services:
            return
        try:
            await worker.redis.hdel(wire.BREAKER_STATE, *(f"{name}|{worker.id}" for name in worker.table.services))
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return  # readers ignore what is old
