"""How the pages say things: durations, shares, counts, lists. Pure; the browser's twin is static/js/words.js."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def ago(seconds: float) -> str:
    """A duration in its largest unit: ``4 s``, ``3 min``, ``2 h``, ``5 d``."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} d"


def percent(share: float | None) -> str:
    """0.384 → ``38%``; below ten with one decimal; nothing known is an en dash."""
    if share is None:
        return "–"
    value = share * 100
    return f"{value:.0f}%" if value >= 9.95 else f"{value:.1f}%"


def milliseconds(value: float | None) -> str:
    """A latency as a number in milliseconds: two significant digits below ten, thousands grouped."""
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Requests per second as a number."""
    if value is None:
        return "–"
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def plural(count: int, noun: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def and_list(names: Sequence[str], most: int = 3) -> str:
    """``a``, ``a and b``, ``a, b and c``, ``a, b and 4 more``."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def spark(rates: Sequence[float]) -> str:
    """An SVG polyline's points in a box of 100 by 26, oldest left; empty for no rates."""
    if len(rates) < 2:
        return ""
    top = max(*rates, 0.1)
    step = 100 / (len(rates) - 1)
    return " ".join(f"{n * step:.1f},{24.5 - rate / top * 22:.1f}" for n, rate in enumerate(rates))


def bar_words(bar: Sequence[str]) -> str:
    """A health bar for who can't see it."""
    bad, warn, unknown = (sum(1 for worst in bar if worst == state) for state in ("unhealthy", "degraded", "unknown"))
    parts = [
        f"{count} {word}" for count, word in ((bad, "unhealthy"), (warn, "degraded"), (unknown, "unknown")) if count
    ]
    return f"Health over time, {len(bar)} stretches: {', '.join(parts) if parts else 'all healthy'}"


def breaker(state: Mapping[str, Any] | None, name: str) -> str:
    """The breaker in a few words."""
    if name == "gateway":
        return "data plane"
    if not state:
        return "breaker not known"
    word = {"closed": "closed", "open": "open", "half_open": "half-open"}.get(str(state["state"]), str(state["state"]))
    return f"breaker held {word}" if state.get("forced") else f"breaker {word}"


def up(instances: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """``1 of 2 up``: how many of those that should serve do."""
    if name == "gateway":
        return plural(len(instances), "worker")
    if not instances:
        return "no instance"
    wanted = [instance for instance in instances.values() if instance.get("state") != "drained"]
    healthy = sum(1 for instance in wanted if instance.get("state") == "healthy")
    drained = len(instances) - len(wanted)
    return f"{healthy} of {len(wanted)} up" + (f", {drained} drained" if drained else "")


def expected(degraded: float, failing: float, slow_ms: float | None) -> str:
    """What a route may do: ``amber from 5.0% failed, red from 25%; p95 within 250 ms``."""
    slow = f"p95 within {milliseconds(slow_ms)} ms" if slow_ms is not None else "p95 near its last hour's"
    return f"amber from {percent(degraded)} failed, red from {percent(failing)}; {slow}"


def own_report(service: Mapping[str, Any]) -> str:
    """What a registered service says of itself, beside what the gateway saw."""
    own = service.get("own")
    if own:
        errors = f"{percent(own.get('error_rate'))} errors, p95 {milliseconds(own.get('p95_ms'))} ms"
        return f"By its own report: {rate(own.get('rate'))} /s, {errors}."
    return "It has reported nothing of itself in the last minute." if service.get("red") else ""


def all_lost(own: Mapping[str, Mapping[str, Any]]) -> str:
    """What all of Mission Control's processes dropped or refused lately, the most first."""
    total: dict[str, int] = {}
    for part in own.values():
        for what, count in part.get("lost", {}).items():
            total[what] = total.get(what, 0) + count
    told = [f"{count:,} {what}" for what, count in sorted(total.items(), key=lambda one: (-one[1], one[0]))]
    return f"Last hour: {', '.join(told[:3])}." if told else "Last hour: nothing lost or refused."


def lost(part: Mapping[str, Any]) -> str:
    """What a process dropped or refused: ``12 spans dropped, 3 messages refused``."""
    return ", ".join(f"{count:,} {what}" for what, count in part.get("lost", {}).items()) or "nothing"


def limited(red: Mapping[str, Any] | None) -> str:
    """``83% limited``: the share of requests that met a limit; empty for none."""
    if not red or not red.get("limited"):
        return ""
    return f"{percent(red['limited'] / red['requests'])} limited"


def affected(row: Mapping[str, Any]) -> str:
    """``12 failed``, ``80 limited by standard``."""
    if "failed" in row:
        return f"{row['failed']:,} failed"
    return f"{row['limited']:,} limited" + (f" by {row['policy']}" if row.get("policy") else "")


def affected_total(verdict: Mapping[str, Any]) -> str:
    """``last 5 minutes: 212 requests failed, of 12 callers``."""
    if not verdict.get("failed"):
        return "last 5 minutes"
    callers = plural(verdict.get("failed_callers", 0), "caller")
    return f"last 5 minutes: {plural(verdict['failed'], 'request')} failed, of {callers}"


def changes(found: Mapping[str, Any]) -> str:
    """``3 changes``, ``the newest 40 of 312 changes``."""
    shown, total = len(found["recent"]), found["total"]
    if shown >= total:
        return plural(total, "change")
    return f"the newest {shown} of {'over ' if found.get('cut') else ''}{plural(total, 'change')}"


def nobody(verdict: Mapping[str, Any], sources: Mapping[str, Any]) -> str:
    """What stands in place of the list of who is affected."""
    if "affected" in verdict:
        return "Nobody: no request has failed."
    reasons = [source["stale"] for name in ("telemetry", "traffic") if (source := sources.get(name, {})).get("stale")]
    return f"Not known: {reasons[0]}." if reasons else "Not known."


GAP = 1.5
"""Percent of the ribbon between two labels."""


def tally(services: Mapping[str, Mapping[str, Any]]) -> str:
    """``1 failing · 4 healthy``."""
    order = {"failing": "", "degraded": "", "unknown": "", "setup": "setting up", "maintenance": "", "healthy": ""}
    order["reports"] = "reporting only"
    counts = {state: sum(1 for service in services.values() if service["state"] == state) for state in order}
    return " · ".join(f"{count} {order[state] or state}" for state, count in counts.items() if count)


def labels(marks: Sequence[tuple[float, str]], letter: float = 0.65) -> list[tuple[float, str, str]]:
    """Which marks of the ribbon get a label, as (percent, anchor, text): the newest, and those with room beside it.

    ``letter``: a letter's width in percent of the ribbon; scripts, which know the ribbon's width, do it again.
    """
    found: list[tuple[float, str, str]] = []
    taken = 1000.0
    for x, title in sorted(marks, key=lambda mark: -mark[0]):
        width = len(title) * letter
        anchor = "end" if x + width / 2 > 100 else "start" if x < width / 2 else "middle"
        left = x - {"end": width, "start": 0.0, "middle": width / 2}[anchor]
        if left + width + GAP <= taken:
            found.append((x, anchor, title))
            taken = left
    return found
