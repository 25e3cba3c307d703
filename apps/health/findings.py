"""What came of probes, on its way into the database, the event store and Redis.

Rows are written by compare-and-set on the claim and the version: a finding whose row moved on in
the meantime is dropped and counted. A change of state is the row, its history and its event in one
transaction; Redis hears of it right after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from django.db import connection, transaction
from opentelemetry import metrics

from apps.events.actions import publish_all
from apps.events.storing import Draft
from apps.health.announce import Announcer
from apps.health.core import Standing, State, after
from apps.health.models import HealthTransition, InstanceHealth
from apps.health.probes import Finding
from apps.health.rounds import Target
from apps.lib.messages import Verdict

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
probed = meter.create_counter("mc.health.probes", description="Probes recorded, by outcome")
overtaken = meter.create_counter("mc.health.findings.overtaken", description="Findings dropped: their row had moved on")


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
        log.log(level, "%s is %s (was %s): %s", verdict.instance, verdict.state, was, verdict.detail)
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
        instance=target.key,
        state=turned_to or target.standing.state,
        at=finding.at if turned_to else target.since,
        version=target.version + (turned_to is not None),
        checked_at=finding.at,
        latency_ms=finding.latency_ms,
        detail=finding.detail,
    )
