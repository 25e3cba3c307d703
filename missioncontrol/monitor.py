"""The monitor: what has to happen within seconds, inside every Celery worker and without a task per second.

Three kinds of turns (rounds of health checks, tracking of breakers, reconciling of the configuration on Redis), each
repeated when it is due or when something wakes it. Blocking work runs on threads, one loop on a thread of its own
waits. Why not by beat and broker: docs/decisions/0037.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from threading import Thread
from typing import Any

import redis
import redis.asyncio
from celery import bootsteps
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from opentelemetry import metrics

from apps.events import nudges
from apps.gateway import actions
from apps.health.monitor import Rounds, Tracking
from apps.lib import aio, kv
from apps.lib.border import out_of_reach
from apps.lib.clock import wall
from apps.lib.wire import BREAKER_TRANSITIONS, CHECKS_CHANNEL, CONFIG_CHANNEL
from services.kit.events.pump import Trouble

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
faults = meter.create_counter("mc.monitor.faults", description="Turns of the monitor that a fault of ours ended")

RECONCILE_S = 5.0
"""Between two looks at whether Redis has the newest revision."""
AFTER_FAULT_S = 5.0
EARLY_S = 0.2
"""Least seconds between two turns of a kind, however often it is woken."""
BLOCK_S = 5.0
"""How long Redis may wait with an answer for the next breaker transition."""
STOP_S = 15.0


class Monitor:
    """One per worker. ``alive`` is false when it has ended without being asked to."""

    def __init__(self) -> None:
        self._thread = Thread(target=self._run, name="monitor", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    @property
    def alive(self) -> bool:
        """Whether its loop runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; returns at once."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the turns in hand, and give the lease to another worker."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(STOP_S)

    def _run(self) -> None:
        assert self._loop is not None  # noqa: S101 - made by start
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        rounds, tracking, reconciling = Rounds(), Tracking(), Reconciling()
        looked, moved, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
        url = settings.REDIS_URL
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "rounds": lambda: _repeat(rounds.turn, looked),
            "nudges": lambda: nudges.listen(url, looked, CONFIG_CHANNEL, CHECKS_CHANNEL),
            "breakers": lambda: _repeat(tracking.turn, moved),
            "transitions": lambda: _hear_of_transitions(url, moved),
            "configuration": lambda: _repeat(reconciling.turn, never),
        }
        tasks = [asyncio.create_task(_keep(name, work), name=f"monitor {name}") for name, work in parts.items()]
        try:
            await self._stopping.wait()
        finally:
            await aio.end(*tasks)
            await asyncio.to_thread(rounds.stop)


class Step(bootsteps.StartStopStep):
    """The monitor as a part of Celery's worker: begun before it takes tasks, also while the broker is away."""

    requires = ("celery.worker.components:Pool",)

    def create(self, worker: Any) -> Monitor:
        worker.monitor = Monitor()
        return worker.monitor  # type: ignore[no-any-return]

    def terminate(self, worker: Any) -> None:
        self.stop(worker)


async def _keep(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work``, which never ends. As with a task of Celery's, whatever it raises is its outcome: said and counted,
    and no end of the others, or of the next try."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("The monitor's %s: a fault. It goes on in %.0f s.", name, AFTER_FAULT_S)
            faults.add(1, {"part": name})
        await asyncio.sleep(AFTER_FAULT_S)


async def _repeat(turn: Callable[[], float], bell: asyncio.Event) -> None:
    """One turn after the other, each after the seconds that the last one said, or when the bell rings."""
    while True:
        bell.clear()
        pause = await asyncio.to_thread(_in_thread, turn)
        await asyncio.sleep(EARLY_S)
        await aio.heard(bell, max(pause - EARLY_S, 0.0))


def _in_thread(turn: Callable[[], float]) -> float:
    # These threads serve no request and no task, so nobody else looks after their connections.
    close_old_connections()
    return turn()


class Reconciling:
    """Gives Redis the newest revision again if it lost it, or was away when it was published."""

    def __init__(self) -> None:
        self._database = Trouble("The database", "configuration is not reconciled")

    def turn(self) -> float:
        """Look, and mend; seconds until the next look."""
        try:
            actions.reconcile()
        except DatabaseError as error:
            self._database.begins(error)
        else:
            self._database.is_over()
        return RECONCILE_S


async def _hear_of_transitions(url: str, bell: asyncio.Event) -> None:
    """Ring at each entry of the workers' stream, until cancelled."""
    while True:
        try:
            async with kv.async_client(url, socket_timeout=None) as client:
                newest = await client.xrevrange(BREAKER_TRANSITIONS, count=1)
                last = newest[0][0] if newest else "0-0"
                bell.set()
                while True:
                    # A stranger's entry may stand where no time of ours will come: what follows it has no place.
                    after = "$" if out_of_reach(last, wall()) else last
                    found = await client.xread({BREAKER_TRANSITIONS: after}, count=1000, block=int(BLOCK_S * 1000))
                    if found:
                        last = found[0][1][-1][0]
                        bell.set()
                        await asyncio.sleep(EARLY_S)
        except (redis.RedisError, OSError):
            # Tracking itself says so, and clears away what stands there in the stream's place.
            await asyncio.sleep(nudges.AGAIN_S)
