"""Breakers as others see them: their state and transitions on Redis, and peers opening together.

Redis away costs reports, never a decision; transitions wait in a bounded queue until it is back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from time import time
from typing import TYPE_CHECKING, Any

import redis.exceptions

from apps.gateway.core.breaker import FOLLOWED, Change
from apps.lib import wire
from apps.lib.clock import monotonic

if TYPE_CHECKING:
    from apps.gateway.plane.gateway import Gateway

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
KEPT_TRANSITIONS = 10_000
WAITING = 1000
"""Most transitions kept while Redis is away."""
FORGET_SECONDS = 60.0


class Breakers:
    """Reports of one worker's breakers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._waiting: deque[tuple[str, Change, float]] = deque()
        self._wake = asyncio.Event()

    def changed(self, service: str, change: Change) -> None:
        """A breaker's listener: note the transition, report soon."""
        gateway = self._gateway
        at = time() - (monotonic() - change.at)
        log.warning("Breaker of %s: %s to %s. %s", service, change.before, change.after, change.reason)
        gateway.metrics.count("mc.gateway.breaker.transitions", f"{service}:{change.after}")
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            gateway.metrics.count("mc.gateway.dropped", "breaker_transition")
        self._waiting.append((service, change, at))
        self._wake.set()

    async def on_opened(self, message: bytes) -> None:
        """A peer opened a breaker: open too."""
        opened = json.loads(message)
        table = self._gateway.table
        if opened["worker"] == self._gateway.id or table is None:
            return
        service = table.services.get(opened["service"])
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
            except (redis.exceptions.RedisError, OSError, TimeoutError):
                await asyncio.sleep(REPORT_SECONDS / 4)  # what waits is sent when Redis is back
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _report(self) -> None:
        gateway = self._gateway
        if gateway.table is None:
            return
        now, wall = monotonic(), time()
        taken = list(self._waiting)
        # One round trip. Announcing first: peers open while the rest is still being written.
        pipe = gateway.redis.pipeline(transaction=False)
        for name, change, at in taken:
            if change.after == "open" and change.reason != FOLLOWED:
                until = (
                    at + gateway.table.services[name].breaker.config.wait_in_open
                    if name in gateway.table.services
                    else at
                )
                opened = {"service": name, "worker": gateway.id, "until": until, "at": at}
                pipe.publish(wire.BREAKER_OPENED, json.dumps(opened))
        for name, change, at in taken:
            entry: dict[Any, Any] = {
                "service": name,
                "worker": gateway.id,
                "from": change.before,
                "to": change.after,
                "reason": change.reason,
                "at": repr(at),
            }
            pipe.xadd(wire.BREAKER_TRANSITIONS, entry, maxlen=KEPT_TRANSITIONS, approximate=True)
        states: dict[Any, Any] = {}
        for name, service in gateway.table.services.items():
            view = service.breaker.view(now)
            states[f"{name}|{gateway.id}"] = json.dumps(
                {
                    "state": view.state,
                    "since": wall - (now - view.since),
                    "forced": view.forced,
                    "calls": view.calls,
                    "failure_rate": view.failure_rate,
                    "slow_rate": view.slow_rate,
                    "retry_at": wall + (view.retry_at - now) if view.retry_at is not None else None,
                    "at": wall,
                }
            )
        if states:
            pipe.hset(wire.BREAKER_STATE, mapping=states)
        await pipe.execute()
        for _ in taken:
            self._waiting.popleft()

    async def _clean(self) -> None:
        """Forget workers that are long gone."""
        entries = await self._gateway.redis.hgetall(wire.BREAKER_STATE)
        old = [field for field, data in entries.items() if time() - json.loads(data)["at"] > FORGET_SECONDS]
        if old:
            await self._gateway.redis.hdel(wire.BREAKER_STATE, *old)

    async def leave(self) -> None:
        """The worker ends: its breakers are no longer anyone's state."""
        gateway = self._gateway
        if gateway.table is None or not gateway.table.services:
            return
        try:
            await gateway.redis.hdel(wire.BREAKER_STATE, *(f"{name}|{gateway.id}" for name in gateway.table.services))
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return  # readers ignore what is old
