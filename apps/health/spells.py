"""Spells: how long something stayed in which state. Pure; both health and breakers draw their history by it.

All times are wall-clock seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """At ``at``, ``before`` became ``after``; it had been that way for ``seconds``, None when nobody knows."""

    at: float
    before: str
    after: str
    reason: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Spell:
    """One stay in one state. ``until`` None: it lasts."""

    state: str
    since: float
    until: float | None
    reason: str = ""
    """Why it began."""

    def length(self, start: float, end: float) -> float:
        """Seconds of it that fall between ``start`` and ``end``."""
        return max(min(end if self.until is None else self.until, end) - max(self.since, start), 0.0)


def spells(changes: Sequence[Change], now_state: str | None, now_since: float | None, start: float) -> list[Spell]:
    """The stays since ``start``, oldest first, out of changes in order of time.

    ``now_state`` and ``now_since`` are the present one; None when there is none any more. The first
    stay began before its first change, by that change's ``seconds``, else at ``start`` at the latest.
    """
    found: list[Spell] = []
    reason = ""
    began: float | None = None
    for change in changes:
        if began is None:
            began = change.at - change.seconds if change.seconds is not None else min(start, change.at)
        if change.at >= start:
            found.append(Spell(change.before, began, change.at, reason))
        began, reason = change.at, change.reason
    if now_state is not None:
        since = now_since if now_since is not None else (began if began is not None else start)
        found.append(Spell(now_state, since, None, reason if began == since or began is None else ""))
    return found


def totals(stays: Iterable[Spell], start: float, end: float) -> dict[str, float]:
    """Seconds in each state between ``start`` and ``end``."""
    found: dict[str, float] = {}
    for spell in stays:
        seconds = spell.length(start, end)
        if seconds > 0:
            found[spell.state] = found.get(spell.state, 0.0) + seconds
    return found


BREAKER_RANK = {"open": 3, "half_open": 2, "closed": 1}


def worst_breaker(states: Iterable[str]) -> str | None:
    """The state of a service's breaker as a whole; None without any worker."""
    return max(states, key=lambda state: BREAKER_RANK.get(state, 0), default=None)


HEALTH_RANK = {"unhealthy": 3, "degraded": 2, "unknown": 1, "healthy": 0}


def service_health(instances: Iterable[str]) -> str:
    """A service out of its instances: all down is unhealthy, some down degraded, none known unknown."""
    states = list(instances)
    down = states.count("unhealthy")
    if states and down == len(states):
        return "unhealthy"
    if down:
        return "degraded"
    return "healthy" if "healthy" in states else "unknown"


def buckets(instances: Sequence[Sequence[Spell]], start: float, end: float, count: int) -> list[str]:
    """The worst that the service was in each of ``count`` equal spans from ``start`` to ``end``."""
    if count < 1 or end <= start:
        return []
    moments = sorted({start, *(spell.since for stays in instances for spell in stays if start < spell.since < end)})
    states = [(at, service_health(_at(stays, at) for stays in instances)) for at in moments]
    width = (end - start) / count
    found: list[str] = []
    position = 0
    current = states[0][1]
    for bucket in range(count):
        edge = start + (bucket + 1) * width
        worst = current
        # A change exactly at the bucket's start replaces what was before it.
        first = True
        while position < len(states) and states[position][0] < edge:
            at, current = states[position]
            worst = current if first and at <= edge - width else max(worst, current, key=HEALTH_RANK.__getitem__)
            first = False
            position += 1
        found.append(worst)
    return found


def _at(stays: Sequence[Spell], at: float) -> str:
    for spell in reversed(stays):
        if spell.since <= at:
            return spell.state if spell.until is None or at < spell.until else "unknown"
    return "unknown"
