"""What services' consumers and publishers say of themselves by their metrics: lag, parked, missing; what waits. Blocks.

A group says it each ten seconds. One that has said nothing lately has no figures: its last ones are no longer true.
"""

from __future__ import annotations

from collections.abc import Mapping

from apps.dashboard import backlogs
from apps.dashboard.judge.bus import BEHIND
from apps.dashboard.judge.readings import Group, Reports
from apps.lib.clock import monotonic, wall
from apps.telemetry import queries as telemetry

LAG, PARKED, MISSING = "mc.bus.lag", "mc.bus.parked", "mc.bus.missing"
LOOKBACK_S = 3600.0
"""Seconds for which it is known when a group was heard last."""
AHEAD_S = 60.0
"""Seconds that its clock may be ahead."""
EVERY_S = 9.0
"""A metric is reported each ten seconds."""


def groups() -> dict[str, Group]:
    """Every group that was heard in the last hour; TelemetryAway when nobody can say."""
    now = wall()
    found: dict[str, dict[str, telemetry.Said]] = {}
    for said in telemetry.last_said([LAG, PARKED, MISSING], "group", now - LOOKBACK_S, now + AHEAD_S, BEHIND):
        found.setdefault(said.of, {})[said.metric] = said
    return {name: _group(said) for name, said in found.items()}


def _group(said: Mapping[str, telemetry.Said]) -> Group:
    figures = {metric: int(one.value) for metric, one in said.items()}
    lag = said.get(LAG)
    return Group(
        heard_at=max(one.at for one in said.values()),
        lag=figures.get(LAG, 0),
        parked=figures.get(PARKED, 0),
        missing=figures.get(MISSING, 0),
        behind_since=lag.below_at if lag is not None and lag.value >= BEHIND else None,
    )


def lately() -> Reports | None:
    """The groups, for a page; None when nobody can say."""
    try:
        return Reports(groups())
    except telemetry.TelemetryAway:
        return None


class ReportSource:
    """Asks as often as there is something new."""

    def __init__(self) -> None:
        self._due_at = float("-inf")
        self._said = Reports()

    def read(self) -> Reports:
        """TelemetryAway when ClickHouse does not answer."""
        if monotonic() >= self._due_at:
            self._said = Reports(groups(), tuple(backlogs.waiting()))
            self._due_at = monotonic() + EVERY_S
        return self._said
