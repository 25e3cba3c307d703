"""What pages, the API and the live feed read of health and of breakers' history.

Synchronous; times are wall-clock seconds. Reads the database alone, so it answers while Redis is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from apps.health.models import BreakerSpellNow, BreakerTransition, HealthTransition
from apps.health.spells import Change, Spell, buckets, spells, totals
from apps.lib import clock
from apps.registry.models import Instance

MAX_CHANGES = 20_000
"""Rows of history that one answer is drawn from; the newest count."""


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """One instance as the monitor sees it. ``state`` is unknown, healthy or unhealthy."""

    key: str
    service: str
    instance: str
    url: str
    enabled: bool
    state: str
    since: float
    checked_at: float | None
    latency_ms: float | None
    detail: str
    interval_s: float = 5.0
    """Seconds between its checks: a verdict much older than that is no longer one."""
    watched: bool = True
    """False: switched off, by the instance or by its service's check."""
    passes: int = 0
    """Checks passed in a row on the way back, of ``rise`` that it takes."""
    failures: int = 0
    """Checks failed in a row, of ``fall`` that it takes."""
    rise: int = 2
    fall: int = 2


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an instance's state."""

    key: str
    from_state: str
    to_state: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class BreakerSpell:
    """One stay of a breaker in one state. ``worker`` empty: of the service as a whole. ``until`` None: it lasts."""

    service: str
    worker: str
    state: str
    since: float
    until: float | None
    seconds: float
    reason: str


def statuses(service: str | None = None) -> list[InstanceStatus]:
    """Every instance, by service and name; one never looked at is unknown since it was made."""
    rows = Instance.objects.order_by("service__name", "name")
    if service is not None:
        rows = rows.filter(service__name=service)
    columns = (
        "service__name",
        "name",
        "url",
        "enabled",
        "created_at",
        "service__health_check__enabled",
        "service__health_check__interval_s",
        "service__health_check__rise",
        "service__health_check__fall",
        "health__state",
        "health__since",
        "health__checked_at",
        "health__latency_ms",
        "health__detail",
        "health__passes",
        "health__failures",
    )
    found = []
    for (
        owner,
        name,
        url,
        enabled,
        made,
        checks,
        interval,
        rise,
        fall,
        state,
        since,
        checked_at,
        latency,
        detail,
        passes,
        failures,
    ) in rows.values_list(*columns):
        found.append(
            InstanceStatus(
                key=f"{owner}/{name}",
                service=owner,
                instance=name,
                url=url,
                enabled=enabled,
                state=state or "unknown",
                since=(since or made).timestamp(),
                checked_at=checked_at.timestamp() if checked_at else None,
                latency_ms=latency,
                detail=detail or "",
                interval_s=interval or 5.0,
                watched=bool(enabled and checks is not False),
                passes=passes or 0,
                failures=failures or 0,
                rise=rise or 2,
                fall=fall or 2,
            )
        )
    return found


def transitions(*, service: str | None = None, since: float | None = None, limit: int = 100) -> list[Transition]:
    """Changes of state, newest first."""
    rows = HealthTransition.objects.order_by("-at", "-pk")
    if service is not None:
        rows = rows.filter(service=service)
    if since is not None:
        rows = rows.filter(at__gte=_time(since))
    return [
        Transition(row.key, row.from_state, row.to_state, row.at.timestamp(), row.reason)
        for row in rows[: max(min(limit, MAX_CHANGES), 0)]
    ]


def history(service: str, since: float, until: float, buckets_: int) -> list[str]:
    """The worst state of ``service`` in each of ``buckets_`` equal spans: healthy, degraded, unhealthy or unknown."""
    if buckets_ < 1 or until <= since:
        return []
    return buckets([stays for _, stays in _instance_spells(service, since)], since, until, buckets_)


def time_in_state(service: str, since: float, until: float) -> dict[str, dict[str, float]]:
    """Seconds that each instance of ``service`` spent in each state."""
    return {key: totals(stays, since, until) for key, stays in _instance_spells(service, since)}


def _instance_spells(service: str, since: float) -> list[tuple[str, list[Spell]]]:
    changes: dict[str, list[Change]] = {}
    rows = HealthTransition.objects.filter(service=service, at__gte=_time(since)).order_by("-at", "-pk")[:MAX_CHANGES]
    for row in reversed(rows):
        changes.setdefault(row.key, []).append(Change(row.at.timestamp(), row.from_state, row.to_state, row.reason))
    found = []
    for status in statuses(service):
        mine = changes.pop(status.key, [])
        # Before its first verdict an instance is unknown, whatever it became since.
        present = Change(status.since, "unknown", status.state)
        if not mine and status.since > since:
            mine = [present]
        if status.enabled:
            found.append((status.key, spells(mine, status.state, status.since, since)))
    return found


def breaker_timeline(service: str, since: float, *, worker: str | None = None) -> list[BreakerSpell]:
    """The stays of a service's breaker since then, oldest first: of the service as a whole (its worst worker).

    Give ``worker`` for one worker's own, or ``"*"`` for every worker's.
    """
    name = "" if worker is None else worker
    changes: dict[str, list[Change]] = {}
    rows = BreakerTransition.objects.filter(service=service, at__gte=_time(since))
    nows = BreakerSpellNow.objects.filter(service=service)
    if name == "*":
        rows, nows = rows.exclude(worker=""), nows.exclude(worker="")
    else:
        rows, nows = rows.filter(worker=name), nows.filter(worker=name)
    for row in reversed(rows.order_by("-at", "-pk")[:MAX_CHANGES]):
        change = Change(row.at.timestamp(), row.from_state, row.to_state, row.reason, row.seconds)
        changes.setdefault(row.worker, []).append(change)
    present = {row.worker: row for row in nows}
    now = clock.wall()
    found: list[BreakerSpell] = []
    for who in sorted({*changes, *present}):
        here = present.get(who)
        stays = spells(
            changes.get(who, []), here.state if here else None, here.since.timestamp() if here else None, since
        )
        found += [
            BreakerSpell(
                service=service,
                worker=who,
                state=stay.state,
                since=stay.since,
                until=stay.until,
                seconds=round((now if stay.until is None else stay.until) - stay.since, 3),
                reason=stay.reason or (here.reason if here and stay.until is None else ""),
            )
            for stay in stays
            if stay.state != "gone"
        ]
    return sorted(found, key=lambda spell: (spell.since, spell.worker))


def breaker_time_in_state(service: str, since: float, until: float) -> dict[str, float]:
    """Seconds that the breaker of ``service`` as a whole spent in each state between the two times."""
    stays: Sequence[BreakerSpell] = breaker_timeline(service, since)
    return totals((Spell(stay.state, stay.since, stay.until) for stay in stays), since, until)


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
