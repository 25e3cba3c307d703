"""The monitor's verdicts, as they bear on rotation: an unhealthy instance gets no requests.

A verdict is worth as much as the monitor's word that it still looks: when that is not heard for a while,
every instance is as good as unknown, and the worker's own judgement (apps.gateway.core.outlier) remains.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import time

from apps.gateway.plane.table import UNHEALTHY
from apps.gateway.plane.worker import Worker
from apps.lib import wire
from apps.lib.clock import monotonic
from apps.lib.messages import Alive, Verdict

log = logging.getLogger(__name__)

HEALTHY = "healthy"
NEWS_SECONDS = 30.0
"""How long a verdict on the channel, or a sign of life, is news: one that is said again later is a stranger's.
Clocks may differ by so much."""

VOUCHED_SECONDS = 5.0
"""So long half-open with only healthy verdicts, and the verdicts count as checks since it opened."""

MONITOR_SECONDS = 15.0
"""So long after the monitor's last sign of life its verdicts stop to count. It gives one each second, and a
worker looks every five."""


class Verdicts:
    """The last verdict on each instance."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._known: dict[str, str] = {}
        """``service/name`` → state, as last said."""
        self.states: Mapping[str, str] = {}
        """The same while the monitor is heard, and empty while it is not."""
        self._seen: dict[str, tuple[int, float]] = {}
        """Version and time of each of these."""
        self._beat: object = None
        """The monitor's sign of life as last seen: any other one that is not old is new."""
        self._heard_at: float | None = None

    async def on_verdict(self, message: bytes) -> None:
        """One verdict was published."""
        border = self._worker.border
        verdict = border.open(Verdict, message, wire.HEALTH_CHANNEL, within=NEWS_SECONDS)
        if verdict is not None:
            self._heard()
            self._apply(verdict)

    async def refresh(self) -> None:
        """All stored verdicts, and whether the monitor still looks."""
        name = wire.HEARTBEAT_PREFIX + wire.MONITOR
        beat = await self._worker.redis.get(name)
        if beat != self._beat:
            self._beat = beat
            if self._worker.border.open(Alive, beat, name, within=NEWS_SECONDS) is not None:
                self._heard()
        stored = await self._worker.redis.hgetall(wire.HEALTH_STATE)
        for verdict in self._worker.border.open_all(Verdict, stored, wire.HEALTH_STATE).values():
            self._apply(verdict)

    def tick(self, now: float) -> None:
        """Once a second: notice that the monitor is gone, and what it vouches for."""
        self._vouch(now)
        if self._heard_at is not None and now - self._heard_at >= MONITOR_SECONDS:
            self._heard_at = None
            self.states = {}
            log.warning("The monitor has been silent for %g s: its verdicts no longer count", MONITOR_SECONDS)
            self._worker.metrics.count("mc.gateway.monitor.lost")
            self._heed()

    def _vouch(self, now: float) -> None:
        """An outage too short for a verdict leaves none that ends it: steady ones count after a while, or a worker that
        no client asks would stay half-open for good."""
        table = self._worker.table
        for service in table.services.values() if table is not None else ():
            breaker = service.breaker
            if breaker.state != "half_open" or now - breaker.since < VOUCHED_SECONDS:
                continue
            instances = service.instances.values()
            if instances and all(self.states.get(instance.key) == HEALTHY for instance in instances):
                breaker.recover(now)

    def _heard(self) -> None:
        news = self._heard_at is None
        self._heard_at = monotonic()
        if news:
            log.info("The monitor is heard: its verdicts count")
            self.states = self._known
            self._heed()

    def _heed(self) -> None:
        table = self._worker.table
        for service in table.services.values() if table is not None else ():
            service.heed(self.states)

    def _apply(self, verdict: Verdict) -> None:
        key, state, version, at = verdict.instance, verdict.state, verdict.version, verdict.at
        known, known_at = self._seen.get(key, (0, 0.0))
        if version < known and at <= known_at:
            return  # overtaken: the stored state and the channel are read apart from each other
        self._seen[key] = (version, at)
        before, self._known[key] = self._known.get(key), state
        if before == state:
            return
        table = self._worker.table
        service = table.services.get(key.partition("/")[0]) if table is not None else None
        if service is None:
            return
        if UNHEALTHY in (before, state):
            service.heed(self.states)
        breaker = service.breaker
        now = monotonic()
        if state == HEALTHY and before is not None:
            service.outliers.restore(key, now)
        if state == HEALTHY and before is not None and at > time() - (now - breaker.since):
            breaker.recover(now)
