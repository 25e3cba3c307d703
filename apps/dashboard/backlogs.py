"""What waits in outboxes for each broker, by who publishes it: as publishers measured it themselves. Blocks."""

from __future__ import annotations

from apps.dashboard.judge.readings import Waiting
from apps.lib.clock import wall
from apps.telemetry import queries as telemetry

LATELY_S = 120.0
"""A measure is taken every ten seconds, and reported within a minute."""
WAITING, OLDEST, AWAY = "mc.outbox.broker.waiting", "mc.outbox.broker.oldest", "mc.bus.away"


def waiting() -> list[Waiting]:
    """The longest first; TelemetryAway when nobody can say."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for one in telemetry.newest_gauges([WAITING, OLDEST, AWAY], "broker", wall() - LATELY_S):
        found.setdefault((one.service, one.of), {})[one.metric] = one.value
    rows = [
        Waiting(service, broker, int(said.get(WAITING, 0)), said.get(OLDEST, 0.0), said.get(AWAY, 0.0) > 0)
        for (service, broker), said in found.items()
    ]
    return sorted((row for row in rows if row.events or row.away), key=lambda row: (-row.oldest_s, row.publisher))
