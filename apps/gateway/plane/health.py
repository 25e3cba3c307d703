"""The monitor's verdicts, as they bear on rotation: an unhealthy instance gets no requests."""

from __future__ import annotations

import json
from time import time
from typing import Any

from apps.gateway.plane.table import UNHEALTHY
from apps.gateway.plane.worker import Worker
from apps.lib import wire
from apps.lib.clock import monotonic

HEALTHY = "healthy"


class Verdicts:
    """The last verdict on each instance."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.states: dict[str, str] = {}
        """``service/name`` → state."""
        self._seen: dict[str, tuple[int, float]] = {}
        """Version and time of the verdict in ``states``."""

    async def on_verdict(self, message: bytes) -> None:
        """One verdict was published."""
        self._apply(json.loads(message))

    async def refresh(self) -> None:
        """All stored verdicts."""
        stored = await self._worker.redis.hgetall(wire.HEALTH_STATE)
        for key, data in stored.items():
            self._apply({"instance": str(key, "utf-8") if isinstance(key, bytes) else key, **json.loads(data)})

    def _apply(self, verdict: dict[str, Any]) -> None:
        key, state = verdict["instance"], verdict["state"]
        version, at = int(verdict.get("version", 0)), float(verdict["at"])
        known, known_at = self._seen.get(key, (0, 0.0))
        if version < known and at <= known_at:
            return  # overtaken: the stored state and the channel are read apart from each other
        self._seen[key] = (version, at)
        before, self.states[key] = self.states.get(key), state
        if before == state:
            return
        table = self._worker.table
        service = table.services.get(key.partition("/")[0]) if table is not None else None
        if service is None:
            return
        if UNHEALTHY in (before, state):
            service.rotate(self.states)
        breaker = service.breaker
        now = monotonic()
        if state == HEALTHY and before is not None and at > time() - (now - breaker.since):
            breaker.recover(now)
