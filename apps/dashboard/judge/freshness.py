"""Which sources still count, and why one no longer does. Pure.

A source is stale when it has said nothing for too long, or at once when the process it comes from is known to be
down. What depends on a stale source is grey. "Ahead" is stale too: a clock that runs ahead would else vouch for a
source long after it fell silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apps.dashboard.judge.own import SILENT, SUPERVISOR, Part, young
from apps.dashboard.judge.readings import FAILING, Readings
from apps.dashboard.words import ago

DATABASE, CHANGES = 8.0, 10.0
"""Seconds after which what the database last answered no longer counts."""
GRACE = 2.0
"""Seconds beyond three intervals that a check may take."""

HIDES = {
    "database": "which services there are",
    "workers": "gateway workers",
    "breakers": "breakers",
    "monitor": "whether instances answer",
    "verdicts": "whether instances answer",
    "telemetry": "rates, errors and who is affected",
    "traffic": "rates, errors and who is affected",
    "relay": "whether events are delivered",
    "beat": "whether old history is cleared away",
    "events": "what changed",
    "bus": "whether events are taken",
    "processes": "whether Mission Control's own processes run",
}
"""Source → what nobody knows without it; in the order in which their loss is told."""
BEHIND = {
    "workers": ("redis", "gateway"),
    "breakers": ("redis", "gateway"),
    "monitor": ("worker",),
    "verdicts": ("worker",),
    "telemetry": ("clickhouse",),
    "traffic": ("clickhouse", "collector"),
    "relay": ("relay",),
    "beat": ("beat",),
}
"""Source → the parts that it comes from: when one of them is down, that is why."""


@dataclass(frozen=True, slots=True)
class Source:
    """``as_of``: how old what it says is; ``stale``: why it no longer counts, empty while it does."""

    as_of: float | None
    stale: str = ""


def sources(readings: Readings, parts: Mapping[str, Part], now: float) -> dict[str, Source]:
    """Every source by name, in the order of ``HIDES``; without a supervisor there is none of processes."""
    found = {}
    for name, (as_of, limit, error) in _heard(readings, now).items():
        down = [parts[part] for part in BEHIND.get(name, ()) if part in parts and not parts[part].well]
        dead = next((part for part in down if part.state == FAILING), None)
        stale = ""
        if dead is not None:
            stale = dead.sentence
        elif not young(as_of, now, limit, error):
            stale = down[0].sentence if down else error or _silence(name, as_of, now)
        found[name] = Source(as_of, stale)
    return found


def _heard(readings: Readings, now: float) -> dict[str, tuple[float | None, float, str]]:
    """Source → when it was last heard, for how long that counts, and what it said instead."""
    registry, plane, traffic = readings.registry, readings.plane, readings.traffic
    checked, patience = _checks(readings, now)
    monitor = readings.signs.value.get("monitor")
    heard = {
        "database": (registry.at, DATABASE, registry.error),
        "workers": (max((worker.at for worker in plane.value.workers), default=None), SILENT["gateway"], plane.error),
        "breakers": (plane.at, SILENT["redis"], plane.error),
        "monitor": (max(filter(None, (monitor, checked)), default=None), SILENT["worker"], ""),
        "verdicts": (checked if checked is not None else monitor, patience, registry.error),
        "telemetry": (traffic.at, SILENT["clickhouse"], traffic.error),
        "traffic": (traffic.value.reported_at or None, SILENT["collector"], ""),
        "relay": (readings.signs.value.get("relay"), SILENT["relay"], readings.signs.error),
        "beat": (readings.signs.value.get("beat"), SILENT["beat"], readings.signs.error),
        "events": (readings.changes.at, CHANGES, readings.changes.error),
        "bus": (readings.bus.at, CHANGES, readings.bus.error),
    }
    if readings.processes is not None:
        heard["processes"] = (readings.processes.at, SUPERVISOR, readings.processes.error)
    return {name: heard[name] for name in HIDES if name in heard}


def _checks(readings: Readings, now: float) -> tuple[float | None, float]:
    """The newest check of any instance that is watched, and how long the busiest of them may be silent."""
    intervals = {info.name: info.interval_s for info in readings.registry.value.services}
    newest: float | None = None
    patience = 0.0
    for status in readings.registry.value.instances:
        interval = intervals.get(status.service)
        if not status.enabled or interval is None or status.checked_at is None:
            continue
        newest = status.checked_at if newest is None else max(newest, status.checked_at)
        patience = max(patience, 3 * interval + GRACE)
    return newest, patience or SILENT["worker"]


SAYS = {
    "database": "the database has not answered",
    "workers": "no gateway worker has reported",
    "breakers": "Redis has not answered",
    "monitor": "the monitor has been silent",
    "verdicts": "no check has been recorded",
    "telemetry": "ClickHouse has not answered",
    "traffic": "no report of the gateway has been stored",
    "relay": "the relay has been silent",
    "beat": "the scheduler has been silent",
    "events": "the database has not answered",
    "bus": "the database has not answered",
    "processes": "the supervisor has not answered",
}


def _silence(name: str, as_of: float | None, now: float) -> str:
    if not as_of:
        return f"{SAYS[name]} yet"
    if as_of > now:
        return f"{SAYS[name]} with a time that can be: its clock is {ago(as_of - now)} ahead"
    return f"{SAYS[name]} for {ago(now - as_of)}"
