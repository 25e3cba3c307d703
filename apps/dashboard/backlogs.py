"""What waits in outboxes for each broker, by who publishes it: as publishers measured it themselves. Blocks."""

from __future__ import annotations

from collections.abc import Iterable

from apps.dashboard.judge.readings import Waiting
from apps.lib.clock import wall
from apps.telemetry import queries as telemetry

LATELY_S = 120.0
"""A measure is taken every ten seconds, and reported within a minute."""
WAITING, OLDEST, AWAY = "mc.outbox.broker.waiting", "mc.outbox.broker.oldest", "mc.bus.away"


def waiting() -> list[Waiting]:
    """The longest first; TelemetryAway when nobody can say."""
    said = telemetry.newest_gauges([WAITING, OLDEST, AWAY], "broker", wall() - LATELY_S)
    return told((one.service, one.of, one.metric, one.value) for one in said)


def told(said: Iterable[tuple[str, str, str, float]]) -> list[Waiting]:
    """What waits by publisher, broker, metric and value: of several processes the highest; the longest first."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for service, broker, metric, value in said:
        known = found.setdefault((service, broker), {})
        known[metric] = max(value, known.get(metric, 0.0))
    rows = [
        Waiting(service, broker, int(known.get(WAITING, 0)), known.get(OLDEST, 0.0), known.get(AWAY, 0.0) > 0)
        for (service, broker), known in found.items()
    ]
    return sorted((row for row in rows if row.events or row.away), key=lambda row: (-row.oldest_s, row.publisher))
