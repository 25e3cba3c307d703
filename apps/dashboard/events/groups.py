"""What services' consumers and publishers say of themselves by their metrics: lag, parked, missing; what waits. Blocks.

A group says it each ten seconds. One that has said nothing lately has no figures: its last ones are no longer true.
"""

from __future__ import annotations

from collections.abc import Sequence

from apps.dashboard import backlogs
from apps.dashboard.judge.bus import BEHIND
from apps.dashboard.judge.readings import Group, Reports
from apps.lib.clock import monotonic, wall
from apps.telemetry import queries as telemetry
from services.kit.env import BROKERS

LAG, PARKED, MISSING = "mc.bus.lag", "mc.bus.parked", "mc.bus.missing"
LOOKBACK_S = 3600.0
"""Seconds for which it is known when a group was heard last."""
AHEAD_S = 60.0
"""Seconds that its clock may be ahead."""
LONGEST = 64
"""Characters of a publisher's name."""
EVERY_S = 14.0
"""A metric is reported each ten seconds."""


def reports() -> Reports:
    """Every group that was heard in the last hour, and what waits; TelemetryAway when nobody can say."""
    now = wall()
    metrics = [LAG, PARKED, MISSING, backlogs.WAITING, backlogs.OLDEST, backlogs.AWAY]
    said = telemetry.last_said(metrics, ["group", "broker"], now - LOOKBACK_S, now + AHEAD_S, BEHIND)
    found: dict[str, list[telemetry.Said]] = {}
    for one in said:
        if one.metric in (LAG, PARKED, MISSING):
            found.setdefault(one.of, []).append(one)
    outboxes = [one for one in said if one.metric in metrics[3:] and one.at >= now - backlogs.LATELY_S]
    # Whoever sends metrics chooses names, and these come into the verdict.
    known = (one for one in outboxes if one.of in BROKERS)
    waiting = backlogs.told((one.service[:LONGEST], one.of, one.metric, one.value) for one in known)
    return Reports({name: _group(words) for name, words in found.items()}, tuple(waiting))


def _group(said: Sequence[telemetry.Said]) -> Group:
    """What its members said, the newest first: they all measure the same."""
    newest: dict[str, int] = {}
    for one in said:
        newest.setdefault(one.metric, int(one.value))
    lag = newest.get(LAG, 0)
    return Group(
        heard_at=said[0].at,
        lag=lag,
        parked=newest.get(PARKED, 0),
        missing=newest.get(MISSING, 0),
        behind_since=_behind_since([one for one in said if one.metric == LAG]) if lag >= BEHIND else None,
    )


def _behind_since(lags: Sequence[telemetry.Said]) -> float:
    """When any member last found the group to be well; if none did, when the first began to look."""
    well = [one.below_at for one in lags if one.below_at is not None]
    return max(well) if well else min(one.first_at for one in lags)


def lately() -> Reports | None:
    """The same for a page; None when nobody can say."""
    try:
        return reports()
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
            self._said = reports()
            self._due_at = monotonic() + EVERY_S
        return self._said
