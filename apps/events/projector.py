"""The projector: keeps every registered projection up with the log, and builds new ones, inside the relay process."""

from __future__ import annotations

import asyncio
import logging

from django.db import DatabaseError, close_old_connections
from opentelemetry import metrics

from apps.events import projections
from apps.events.projections import BUILDING, LIVE, REGISTERED, Projection
from apps.lib import clock
from apps.lib.aio import in_thread
from services.kit.events.pump import Trouble

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
behind = meter.create_gauge("mc.projections.behind", description="Positions that a projection has still to read")
faults = meter.create_counter("mc.projections.faults", description="Batches that a projection could not take")

POLL_S = 5.0
"""How long a lost nudge can cost."""
AGAIN_S = 15.0
"""Before a projection that failed is tried again: a fault of its code is mended by a new process, or by a rebuild."""
MEASURE_EVERY_S = 10.0


class Projector:
    """Runs until told to stop. Any number may run: a build is in one's hands for a batch."""

    def __init__(self) -> None:
        self.bell = asyncio.Event()
        """Rung when there may be something new."""
        self._stopping = False
        self._database = Trouble("The database", "projections stand still")
        self._not_before: dict[tuple[str, str], float] = {}
        self._measure_at = 0.0

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping = True
        self.bell.set()

    async def run(self) -> None:
        """Project until stopped."""
        while not self._stopping:
            self.bell.clear()
            try:
                moved = [await in_thread(self._step, one) for one in REGISTERED.values()]
                await self._measure()
                self._database.is_over()
                pause = 0.0 if any(moved) else POLL_S
            except DatabaseError as error:
                pause = self._database.begins(error)
            await self._pause(pause)

    def _step(self, projection: Projection) -> bool:
        """A batch for each of its builds; a fault stops that build for a while, and no other."""
        close_old_connections()
        moved = False
        for role in (LIVE, BUILDING):
            if clock.monotonic() < self._not_before.get((projection.name, role), 0.0):
                continue
            try:
                moved |= projections.advance(projection, role)
            except DatabaseError:
                raise
            except Exception as error:
                log.exception("Projection %s (%s) stands still", projection.name, role)
                faults.add(1, {"projection": projection.name})
                projections.stands(projection, role, f"{type(error).__name__}: {error}")
                self._not_before[projection.name, role] = clock.monotonic() + AGAIN_S
        return moved

    async def _measure(self) -> None:
        if REGISTERED and clock.monotonic() >= self._measure_at:
            self._measure_at = clock.monotonic() + MEASURE_EVERY_S
            for one in await in_thread(projections.progress):
                behind.set(one.behind, {"projection": one.projection, "role": one.role})

    async def _pause(self, seconds: float) -> None:
        if seconds and not self._stopping:
            try:
                async with asyncio.timeout(seconds):
                    await self.bell.wait()
            except TimeoutError:
                pass
