"""A round of probing, database side: see what is there, claim what is due, record what was found.

``begin`` claims by conditional UPDATE, so that two rounds (or two workers) never own one probe.
``record`` writes by compare-and-set on the claim and the version: a finding whose row moved on in
the meantime is dropped and counted. A change of state is the row, its history and its event in one
transaction; Redis hears of it right after the commit.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import F
from opentelemetry import metrics

from apps.events.actions import Draft, publish_all
from apps.health.announce import Announcer, Verdict
from apps.health.core import Standing, State, Thresholds, after
from apps.health.models import HealthCheck, HealthTransition, InstanceHealth
from apps.health.probes import Finding, Request
from apps.registry.models import Instance

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
probed = meter.create_counter("mc.health.probes", description="Probes recorded, by outcome")
overtaken = meter.create_counter("mc.health.findings.overtaken", description="Findings dropped: their row had moved on")

SLACK_S = 0.3
"""A probe this close to due is due: rounds come once a second and not on the dot."""
MISSED, GRACE_S = 3, 5.0
"""So many intervals, and so many seconds more, without a check: nobody is looking."""
CHUNK = 500
"""Rows per statement: SQLite bounds the parameters of one."""


class Row(NamedTuple):
    """One instance with its check and its health, in one flat row (a round reads all of them every second)."""

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
        return self.enabled and self.checks


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


def begin(now: float, announcer: Announcer) -> list[Target]:
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
    return _claim([row for row in rows if row.watched], at)


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
            key=f"{service}/{name}",
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
    due = [row for row in rows if row.next_at <= cutoff or row.next_at > at + timedelta(seconds=row.interval_s)]
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


def record(found: Sequence[tuple[Target, Finding]], announcer: Announcer) -> None:
    """Store a batch of findings and announce them."""
    steady: list[tuple[Target, Finding, Standing]] = []
    turned: list[tuple[Target, Finding, Standing]] = []
    for target, finding in found:
        standing = after(target.standing, finding.passed, target.thresholds)
        (steady if standing.state == target.standing.state else turned).append((target, finding, standing))
    with transaction.atomic():
        missed = _write_steady(steady)
        changed, lost = _write_turned(turned)
    overtaken.add(missed + lost)
    passes = sum(finding.passed for _, finding in found)
    probed.add(passes, {"outcome": "passed"})
    probed.add(len(found) - passes, {"outcome": "failed"})
    for verdict, was in changed:
        level = logging.WARNING if verdict.state == "unhealthy" else logging.INFO
        log.log(level, "%s is %s (was %s): %s", verdict.key, verdict.state, was, verdict.detail)
    # When a row had moved on we can't tell which: let the next round speak for all of them.
    refreshed = [] if missed else [_verdict(target, finding) for target, finding, _ in steady]
    announcer.tell(refreshed, [verdict for verdict, _ in changed])


def _write_steady(found: Sequence[tuple[Target, Finding, Standing]]) -> int:
    """One statement for all findings that change no state. Returns how many rows had moved on."""
    if not found:
        return 0
    table = connection.ops.quote_name(InstanceHealth._meta.db_table)
    sql = (
        f"UPDATE {table} SET passes = %s, failures = %s, checked_at = %s, latency_ms = %s, detail = %s "  # noqa: S608
        "WHERE instance_id = %s AND claim = %s AND version = %s"
    )
    when = connection.ops.adapt_datetimefield_value
    values = [
        (
            standing.passes,
            standing.failures,
            when(datetime.fromtimestamp(finding.at, UTC)),
            finding.latency_ms,
            finding.detail,
            target.instance_id,
            target.claim,
            target.version,
        )
        for target, finding, standing in found
    ]
    with connection.cursor() as cursor:
        cursor.executemany(sql, values)
        return len(values) - int(cursor.rowcount)


def _write_turned(found: Sequence[tuple[Target, Finding, Standing]]) -> tuple[list[tuple[Verdict, State]], int]:
    """Row, history and event of every change of state. Returns the new verdicts, and how many were overtaken."""
    changed: list[tuple[Verdict, State]] = []
    history: list[HealthTransition] = []
    drafts: list[Draft] = []
    for target, finding, standing in found:
        at = datetime.fromtimestamp(finding.at, UTC)
        won = InstanceHealth.objects.filter(pk=target.instance_id, claim=target.claim, version=target.version).update(
            state=standing.state,
            since=at,
            version=target.version + 1,
            passes=0,
            failures=0,
            checked_at=at,
            latency_ms=finding.latency_ms,
            detail=finding.detail,
        )
        if not won:
            continue
        was = target.standing.state
        changed.append((_verdict(target, finding, standing.state), was))
        history.append(
            HealthTransition(
                service=target.service,
                key=target.key,
                from_state=was,
                to_state=standing.state,
                at=at,
                reason=finding.detail,
                version=target.version + 1,
            )
        )
        drafts.append(
            Draft(
                f"system.instance.{standing.state}",
                {
                    "instance": target.key,
                    "service": target.service,
                    "from": was,
                    "to": standing.state,
                    "reason": finding.detail,
                    "at": finding.at,
                    "version": target.version + 1,
                },
                subject=target.key,
            )
        )
    HealthTransition.objects.bulk_create(history)
    publish_all(drafts)
    return changed, len(found) - len(changed)


def _verdict(target: Target, finding: Finding, turned_to: State | None = None) -> Verdict:
    return Verdict(
        key=target.key,
        state=turned_to or target.standing.state,
        at=finding.at if turned_to else target.since,
        version=target.version + (turned_to is not None),
        checked_at=finding.at,
        latency_ms=finding.latency_ms,
        detail=finding.detail,
    )
