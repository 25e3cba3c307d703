"""A type moves from one lane (broker and topic) to another: its events wait until the old lane is empty.

Two lanes have no order between them. So once rules send a type elsewhere, its publisher holds it back until every group
has acknowledged what the old lane has, and what was published there before is dealt with, or parked in its order,
before anything that comes later is on the new lane at all. That ends by itself: an old broker that does not answer, or
groups that take nothing more from it, are waited for only so long, and what was done then is said and counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from opentelemetry import metrics

from ..routing import Lane, Routes
from .base import Transport, TransportError

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
moved = meter.create_counter("mc.bus.moves", description="Waits for an old lane to be empty, by how they ended")

SETTLE_S: Final = 1.0
"""After new rules: until then a twin of this publisher may still go by the old ones."""
LOOK_S: Final = 0.25
AWAY_S: Final = 10.0
"""An old broker that has not answered for so long is not waited for."""
STALLED_S: Final = 45.0
"""Groups that have taken nothing for so long are not waited for: longer than a dead member's lease."""
ZEROS: Final = 2
"""Looks in a row that must find a partition empty: what is on its way between broker and member may not be counted."""
MAX_TYPES: Final = 10_000

Open = Callable[[str], Transport]


class Moves:
    """What this publisher knows of where its types went, and which of them wait."""

    def __init__(self, broker: Open, kinds: Callable[[], Collection[str]]) -> None:
        self._broker, self._kinds = broker, kinds
        self._routes: Routes | None = None
        self._went: dict[str, frozenset[Lane]] = {}
        """Where a type's events went last. Of one that is not here, the rules of lately tell where they may have."""
        self._emptied: dict[frozenset[Lane], asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._since = 0.0

    def adopt(self, routes: Routes) -> None:
        """New rules. What was found to be empty may have been filled by the old ones."""
        self._routes = routes
        self._since = time.monotonic()
        self.end()

    def end(self) -> set[asyncio.Task[None]]:
        """Wait for nothing any more; the tasks that are ending."""
        for task in self._emptied.values():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._emptied.clear()
        return self._ending

    def waits(self, event_type: str, lanes: frozenset[Lane]) -> str:
        """Why an event of this type may not go by ``lanes`` yet; "" when it may, and is taken to go."""
        old = self._old(event_type, lanes)
        if old:
            task = self._emptied.get(old)
            if task is None:
                task = asyncio.create_task(self._empty(old), name=f"emptying {_said(old)}")
                self._emptied[old] = task
            if not task.done():
                return f"it moves from {_said(old)} to {_said(lanes)}, and waits until what went before is read"
            task.result()
        if len(self._went) >= MAX_TYPES:
            self._went.clear()
        self._went[event_type] = lanes
        return ""

    def _old(self, event_type: str, lanes: frozenset[Lane]) -> frozenset[Lane]:
        """What must be empty first: every lane that may have what the new ones have not."""
        went = self._went.get(event_type)
        if went is not None:
            return frozenset() if lanes <= went else went
        former = self._routes.formerly(event_type) if self._routes else frozenset()
        return former if len(lanes) > 1 else former - lanes

    async def _empty(self, lanes: Iterable[Lane]) -> None:
        await asyncio.sleep(self._since + SETTLE_S - time.monotonic())
        ends = await asyncio.gather(*(_Emptying(self._broker, self._kinds(), lane).run() for lane in lanes))
        for end in ends:
            moved.add(1, {"outcome": end})


class _Emptying:
    """The wait for one lane."""

    def __init__(self, broker: Open, kinds: Collection[str], lane: Lane) -> None:
        self._broker, self._lane = broker, lane
        self._others = [kind for kind in kinds if kind != lane.broker]
        self._zeros: dict[tuple[str, str], int] = {}
        self._left = math.inf
        self._answered = self._fell = time.monotonic()

    async def run(self) -> str:
        """How it ended: ``empty``, ``away`` or ``stalled``."""
        while True:
            try:
                left = await self._look()
            except TransportError as error:
                if time.monotonic() - self._answered > AWAY_S:
                    log.error(
                        "Events move on from %s without waiting for what is there (%s): when it is back, that is "
                        "handled beside later events of the same keys.",
                        _said([self._lane]),
                        error,
                    )
                    return "away"
            else:
                now = time.monotonic()
                if not left:
                    return "empty"
                if (total := sum(left.values())) < self._left:
                    self._left, self._fell = total, now
                if now - self._fell > STALLED_S:
                    log.error(
                        "Events move on from %s though %s have not read %d there: "
                        "those are handled beside later events of the same keys.",
                        _said([self._lane]),
                        ", ".join(sorted({group for group, _ in left})),
                        total,
                    )
                    return "stalled"
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> dict[tuple[str, str], int]:
        """What groups have not acknowledged, of partitions that were not seen empty since this began."""
        left: dict[tuple[str, str], int] = {}
        transport = self._broker(self._lane.broker)
        known = await transport.groups()
        for group in await self._elsewhere() - known:
            # It has begun to read this topic, and its place on this broker is still to be made.
            left[group, self._lane.topic] = 1
        for group in known:
            for place, count in (await transport.lag(group)).items():
                if place.rpartition("/")[0] not in {self._lane.topic, transport.whole}:
                    continue
                where = (group, place)
                zeros = self._zeros.get(where, 0)
                if zeros < ZEROS:
                    self._zeros[where] = 0 if count else zeros + 1
                    if self._zeros[where] < ZEROS:
                        left[where] = count
        self._answered = time.monotonic()
        return left

    async def _elsewhere(self) -> set[str]:
        """Groups that read this topic from other brokers, as far as those tell."""
        found: set[str] = set()
        for kind in self._others:
            try:
                transport = self._broker(kind)
                # Where one queue has all topics, nothing tells which of them a group reads.
                for group in set() if transport.whole else await transport.groups():
                    if any(place.rpartition("/")[0] == self._lane.topic for place in await transport.lag(group)):
                        found.add(group)
            except TransportError:
                continue
        return found


def _said(lanes: Iterable[Lane]) -> str:
    return ", ".join(sorted(f"{lane.broker}/{lane.topic}" for lane in lanes))
