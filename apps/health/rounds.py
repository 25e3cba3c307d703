"""A round of probing, database side: see what is there and claim what is due.

Probes are claimed by conditional UPDATE, so that two rounds (or two workers) never own one. What
comes of them is apps.health.findings' to record.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import F

from apps.health.announce import Announcer
from apps.health.core import Standing, State, Thresholds
from apps.health.models import HealthCheck, HealthTransition, InstanceHealth
from apps.health.probes import Request
from apps.lib.messages import Verdict
from apps.registry.models import Instance

SLACK_S = 0.3
"""A probe this close to due is due: so that what is due at about one time is one round."""
MISSED, GRACE_S = 3, 5.0
"""So many intervals, and so many seconds more, without a check: nobody is looking."""
CHUNK = 500
"""Rows per statement: SQLite bounds the parameters of one."""


class Row(NamedTuple):
    """One instance with its check and its health, in one flat row (every round reads all of them)."""

    pk: int
    name: str
    url: str
    enabled: bool
    service_id: int
    service: str
    check: int | None
    path: str
    interval_s: float
    timeout_s: float
    rise: int
    fall: int
    low: int
    high: int
    checks: bool
    health: int | None
    state: State
    passes: int
    failures: int
    version: int
    next_at: datetime
    since: datetime
    checked_at: datetime | None

    @property
    def key(self) -> str:
        return f"{self.service}/{self.name}"

    @property
    def watched(self) -> bool:
        # Without a row of health (an instance made while a round looks) it waits for the next round.
        return self.enabled and self.checks and self.health is not None


COLUMNS = (
    "pk",
    "name",
    "url",
    "enabled",
    "service_id",
    "service__name",
    "service__health_check__pk",
    "service__health_check__path",
    "service__health_check__interval_s",
    "service__health_check__timeout_s",
    "service__health_check__rise",
    "service__health_check__fall",
    "service__health_check__status_low",
    "service__health_check__status_high",
    "service__health_check__enabled",
    "health__pk",
    "health__state",
    "health__passes",
    "health__failures",
    "health__version",
    "health__next_at",
    "health__since",
    "health__checked_at",
)


@dataclass(frozen=True, slots=True)
class Target:
    """One claimed probe, with all that recording it needs."""

    instance_id: int
    key: str
    service: str
    request: Request
    standing: Standing
    thresholds: Thresholds
    version: int
    since: float
    claim: str


@dataclass(frozen=True, slots=True)
class Round:
    """What one round owns. ``next_at``: when the next probe of any instance is due (wall clock); None without one."""

    targets: list[Target]
    next_at: float | None


def begin(now: float, announcer: Announcer) -> Round:
    """Bring rows and Redis in step with the registry, then claim every probe that is due at ``now``."""
    at = datetime.fromtimestamp(now, UTC)
    rows = _rows()
    if _add_missing(rows, at):
        rows = _rows()
    switched_off = [row for row in rows if row.health and not row.watched and row.state != "unknown"]
    if switched_off:
        _forget_verdicts(switched_off, at)
        announcer.tell([], [Verdict(row.key, "unknown", now, row.version + 1) for row in switched_off if row.enabled])
    _keep_redis_in_step({row.key for row in rows if row.enabled}, announcer)
    watched = [row for row in rows if row.watched]
    targets = _claim(watched, at)
    return Round(targets, _next_at(watched, at))


def _next_at(rows: Sequence[Row], at: datetime) -> float | None:
    """When the next of them is due, once those that are have been claimed (by us, or by somebody just now)."""
    moments = [at + timedelta(seconds=row.interval_s) if _is_due(row, at) else row.next_at for row in rows]
    return min(moments).timestamp() if moments else None


def _is_due(row: Row, at: datetime) -> bool:
    """Now, or soon enough; or later than its interval allows, since that was longer before."""
    return row.next_at <= at + timedelta(seconds=SLACK_S) or row.next_at > at + timedelta(seconds=row.interval_s)


def _rows() -> list[Row]:
    return [Row(*values) for values in Instance.objects.order_by("pk").values_list(*COLUMNS)]


def _add_missing(rows: Sequence[Row], at: datetime) -> bool:
    """New services get a check with the defaults, new instances a standing that is due at once."""
    services = {row.service_id for row in rows if row.check is None}
    instances = [row.pk for row in rows if row.health is None]
    if services:
        HealthCheck.objects.bulk_create((HealthCheck(service_id=pk) for pk in services), ignore_conflicts=True)
    if instances:
        InstanceHealth.objects.bulk_create(
            # Versions begin at the time in milliseconds: an instance that is deleted and made again must
            # not look older than what the gateway remembers under its name.
            (
                InstanceHealth(instance_id=pk, since=at, next_at=at, version=int(at.timestamp() * 1000))
                for pk in instances
            ),
            ignore_conflicts=True,
        )
    return bool(services or instances)


def _forget_verdicts(rows: Sequence[Row], at: datetime) -> None:
    """What nobody checks is unknown, whatever it was before."""
    with transaction.atomic():
        history = []
        for row in rows:
            why = "checks are switched off" if row.enabled else "the instance is disabled"
            if InstanceHealth.objects.filter(pk=row.pk, version=row.version).update(
                state="unknown", since=at, version=F("version") + 1, passes=0, failures=0, detail=why, claim=""
            ):
                history.append(
                    HealthTransition(
                        service=row.service,
                        key=row.key,
                        from_state=row.state,
                        to_state="unknown",
                        at=at,
                        reason=why,
                        version=row.version + 1,
                    )
                )
        HealthTransition.objects.bulk_create(history)


def _keep_redis_in_step(wanted: set[str], announcer: Announcer) -> None:
    known = announcer.known()
    if known is None:
        return
    if announcer.must_repeat or wanted - known:
        announcer.repeat(current_verdicts())
    if known - wanted:
        announcer.forget(known - wanted)


def current_verdicts() -> list[Verdict]:
    """What the database holds of every enabled instance."""
    rows = InstanceHealth.objects.filter(instance__enabled=True).values_list(
        "instance__service__name", "instance__name", "state", "since", "version", "checked_at", "latency_ms", "detail"
    )
    return [
        Verdict(
            instance=f"{service}/{name}",
            state=state,
            at=since.timestamp(),
            version=version,
            checked_at=checked_at.timestamp() if checked_at else None,
            latency_ms=latency_ms,
            detail=detail,
        )
        for service, name, state, since, version, checked_at, latency_ms, detail in rows
    ]


def _claim(rows: Sequence[Row], at: datetime) -> list[Target]:
    """Move ``next_at`` on for what is due; whoever moved it owns the probe."""
    _hurry([row for row in rows if row.next_at > at + timedelta(seconds=row.interval_s)], at)
    cutoff = at + timedelta(seconds=SLACK_S)
    due = [row for row in rows if _is_due(row, at)]
    if not due:
        return []
    claim = secrets.token_hex(8)
    by_interval: dict[float, list[Row]] = {}
    for row in due:
        by_interval.setdefault(row.interval_s, []).append(row)
    claimed = 0
    with transaction.atomic():
        for interval, group in by_interval.items():
            for start in range(0, len(group), CHUNK):
                claimed += InstanceHealth.objects.filter(
                    pk__in=[row.pk for row in group[start : start + CHUNK]], next_at__lte=cutoff
                ).update(next_at=at + timedelta(seconds=interval), claim=claim)
    if claimed < len(due):
        mine = set(InstanceHealth.objects.filter(claim=claim).values_list("pk", flat=True))
        due = [row for row in due if row.pk in mine]
    _own_up_to_gaps(due, at)
    return [
        Target(
            instance_id=row.pk,
            key=row.key,
            service=row.service,
            request=Request(row.url.rstrip("/") + row.path, row.timeout_s, row.low, row.high),
            standing=Standing(row.state, row.passes, row.failures),
            thresholds=Thresholds(row.rise, row.fall),
            version=row.version,
            since=row.since.timestamp(),
            claim=claim,
        )
        for row in due
    ]


def _own_up_to_gaps(rows: Sequence[Row], at: datetime) -> None:
    """Where nobody looked for a while, say so in the history: what was not checked is unknown, not healthy.

    The verdict itself stands until the next check confirms or overturns it.
    """
    history = []
    for row in rows:
        if row.checked_at is None or row.state == "unknown":
            continue
        lapsed = row.checked_at + timedelta(seconds=MISSED * row.interval_s + GRACE_S)
        if lapsed >= at:
            continue
        history += [
            _change(row, row.state, "unknown", lapsed, "nobody checked: the monitor was not running"),
            _change(row, "unknown", row.state, at, "the monitor runs again"),
        ]
    HealthTransition.objects.bulk_create(history)


def _change(row: Row, before: State, after_: State, at: datetime, why: str) -> HealthTransition:
    return HealthTransition(
        service=row.service, key=row.key, from_state=before, to_state=after_, at=at, reason=why, version=row.version
    )


def _hurry(rows: Sequence[Row], at: datetime) -> None:
    """An interval that was shortened counts from now, not from what the longer one had promised."""
    for start in range(0, len(rows), CHUNK):
        InstanceHealth.objects.filter(pk__in=[row.pk for row in rows[start : start + CHUNK]]).update(next_at=at)
