"""What Mission Control's own processes dropped or refused, in words. Blocks.

The collector is asked itself, since what it drops may be the telemetry that would tell; its figures are since its
start. All others report counters, read from the telemetry store for the last hour.
"""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from apps.lib.clock import monotonic, wall
from apps.telemetry import queries as telemetry

HOUR = 3600.0
EVERY_S = 10.0
WAIT = 1.0
"""Seconds for the collector to answer."""
LARGEST = 1_000_000
"""Bytes of its answer that are read."""

COUNTERS = {
    "mc.gateway.dropped": "reports dropped",
    "mc.gateway.counted.other": "requests counted without a name",
    "mc.gateway.connections.refused": "connections refused",
    "mc.gateway.revisions.refused": "revisions refused",
    "mc.gateway.revisions.unsaved": "revisions not saved",
    "mc.gateway.limiter.alone": "limits decided alone",
    "mc.gateway.drain.cut": "requests cut off at a stop",
    "mc.gateway.faults": "faults of ours",
    "mc.gateway.parts.restarted": "parts begun anew",
    "mc.bus.trimmed": "events trimmed",
    "mc.bus.lost": "events trimmed unread",
    "mc.bus.unrouted": "events that no queue took",
    "mc.bus.late": "deliveries settled too late",
    "mc.bus.malformed": "entries that are no events",
    "mc.schemas.refused": "events refused for their schema",
    "mc.redis.refused": "messages refused",
    "mc.redis.malformed": "messages malformed",
    "mc.bus.forged": "events refused as forged",
    "mc.health.findings.dropped": "findings dropped",
}
"""Metric (docs/metrics.md) → what it counts. The process is the service that reports it."""


class LossSource:
    """Process → what → how many; what can't be read now keeps what it last was."""

    def __init__(self) -> None:
        self._due_at = float("-inf")
        self._counted: dict[str, dict[str, int]] = {}

    def read(self) -> Mapping[str, Mapping[str, int]]:
        """TelemetryAway when ClickHouse does not answer."""
        now = monotonic()
        if now >= self._due_at:
            self._due_at = now + EVERY_S
            counted: dict[str, dict[str, int]] = {}
            for growth in telemetry.counter_growth(list(COUNTERS), wall() - HOUR):
                counted.setdefault(growth.service, {})[COUNTERS[growth.metric]] = growth.grown
            collector = _of_collector()
            if collector:
                counted["collector"] = collector
            self._counted = counted
        return self._counted


def _of_collector() -> dict[str, int]:
    """What the collector itself says; nothing when it does not answer (its silence is told elsewhere)."""
    try:
        url = settings.OTLP_URL.rstrip("/") + "/stats"
        with urllib.request.urlopen(url, timeout=WAIT) as answer:  # noqa: S310 - our own collector's address
            said: Any = json.loads(answer.read(LARGEST))
    except (OSError, ValueError):
        return {}
    found = Counter[str]()
    for part, word in (("dropped", "rows dropped"), ("rejected", "records rejected"), ("refused", "exports refused")):
        counts = said.get(part, {}) if isinstance(said, dict) else {}
        if isinstance(counts, dict):
            found[word] += sum(count for count in counts.values() if isinstance(count, int))
    return {word: count for word, count in found.items() if count}
