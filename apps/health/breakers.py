"""Breaker tracking: what gateway workers report on Redis becomes history, events, and time in state.

The stream is read from a stored cursor, and the cursor moves in the transaction that stores what was
read: every transition is recorded once, also when two trackers run or one is killed. The hash of
present states is looked at as well, since a worker that dies says nothing: its breakers are gone,
and a service must not stay open in the books because of a process that no longer exists.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from opentelemetry import metrics

from apps.events.actions import Draft, publish_all
from apps.health.models import BreakerSpellNow, BreakerTransition, Cursor
from apps.health.spells import worst_breaker
from apps.lib import kv
from apps.lib.wire import BREAKER_STATE, BREAKER_TRANSITIONS

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
recorded = meter.create_counter("mc.breakers.transitions", description="Breaker transitions recorded")
malformed = meter.create_counter("mc.breakers.malformed", description="Reports that could not be read")

CURSOR = "breaker-transitions"
READ_AT_ONCE = 500
GONE_AFTER_S = 10.0
"""A worker refreshes its states every 2 s."""

STATES = {"closed", "half_open", "open"}
EVENTS = {"open": "opened", "half_open": "half-opened", "closed": "closed"}


@dataclass(frozen=True, slots=True)
class Report:
    """One transition as a worker reported it; ``id`` is its place in the stream."""

    id: str
    service: str
    worker: str
    before: str
    after: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Present:
    """One breaker of one worker, as the worker last described it."""

    service: str
    worker: str
    state: str
    since: float
    at: float


class _Overtaken(Exception):
    """Another tracker recorded this batch."""


def track(url: str, now: float, *, look_around: bool = True) -> int:
    """Record what is new; how many transitions that was. RedisError when Redis is away.

    Without ``look_around`` only the stream is read: for the calls in between, every second.
    """
    total = 0
    while True:
        cursor, _ = Cursor.objects.get_or_create(name=CURSOR, defaults={"position": "0-0"})
        # One transaction: workers write a transition before the state that comes of it, so a state
        # that we see without its transition really lost it.
        pipe = kv.client(url).pipeline(transaction=True)
        pipe.xrange(BREAKER_TRANSITIONS, min=f"({cursor.position}", count=READ_AT_ONCE)
        if look_around:
            pipe.hgetall(BREAKER_STATE)
        entries, *rest = pipe.execute()
        if not entries and not look_around:
            return total
        last = len(entries) < READ_AT_ONCE
        reports = [report for entry in entries if (report := _read_report(*entry))]
        present = None
        if last and look_around:
            present = [found for field, value in rest[0].items() if (found := _read_present(field, value))]
        try:
            total += _record(cursor.position, entries[-1][0] if entries else "", reports, present, now)
        except _Overtaken:
            return total
        if last:
            return total


def _read_report(entry: str, fields: dict[str, str]) -> Report | None:
    try:
        report = Report(
            id=entry,
            service=fields["service"],
            worker=fields["worker"],
            before=fields["from"],
            after=fields["to"],
            reason=fields.get("reason", "")[:300],
            at=float(fields["at"]),
        )
    except (KeyError, ValueError):
        report = None
    if (
        report is None
        or not {report.before, report.after} <= STATES
        or not _fits(report.service, report.worker)
        or not 0 < report.at < 1e11
    ):
        malformed.add(1)
        log.warning("Entry %s of %s is no breaker transition.", entry, BREAKER_TRANSITIONS)
        return None
    return report


def _read_present(field: str, value: str) -> Present | None:
    service, _, worker = field.partition("|")
    try:
        body: dict[str, Any] = json.loads(value)
        found = Present(service, worker, str(body["state"]), float(body["since"]), float(body["at"]))
    except (KeyError, TypeError, ValueError):
        found = None
    if found is None or found.state not in STATES or not _fits(service, worker) or not 0 < found.since < 1e11:
        malformed.add(1)
        return None
    return found


def _fits(service: str, worker: str) -> bool:
    return 0 < len(service) <= 63 and 0 < len(worker) <= 120


def _record(old: str, new: str, reports: list[Report], present: list[Present] | None, now: float) -> int:
    books = _Books()
    books.follow(reports)
    if present is not None:
        books.compare(present, {(report.service, report.worker) for report in reports}, now)
    if not new and not books.changed:
        return 0
    with transaction.atomic():
        if new and not Cursor.objects.filter(name=CURSOR, position=old).update(position=new):
            raise _Overtaken
        books.write()
    recorded.add(len(reports))
    return len(reports)


class _Books:
    """The present spells, brought up to date in memory and written in one transaction."""

    def __init__(self) -> None:
        self.spells = {(row.service, row.worker): row for row in BreakerSpellNow.objects.all()}
        self._history: list[BreakerTransition] = []
        self._drafts: list[Draft] = []
        self._touched: dict[tuple[str, str], BreakerSpellNow] = {}
        self._gone: set[int] = set()

    @property
    def changed(self) -> bool:
        return bool(self._history or self._touched or self._gone)

    def follow(self, reports: list[Report]) -> None:
        """Transitions, in order."""
        for report in reports:
            self._move(report.service, report.worker, report.before, report.after, report.at, report.reason, report.id)
            self._whole(report.service, report.at, report.reason, report.id)

    def compare(self, present: list[Present], reported: set[tuple[str, str]], now: float) -> None:
        """Workers as they are now: the new, the gone, and those whose transition got lost."""
        alive = {(one.service, one.worker): one for one in present if now - one.at <= GONE_AFTER_S}
        for key, one in alive.items():
            if key not in self.spells:
                self._begin(*key, one.state, one.since)
                self._whole(one.service, one.since, "a gateway worker started", f"first/{one.worker}/{one.since}")
            elif self.spells[key].state != one.state and key not in reported and now - one.since > GONE_AFTER_S:
                # Its report left the bounded stream before it was read, or never got there.
                why = "noticed late: the worker's report was lost"
                source = f"late/{one.worker}/{one.since}"
                self._move(one.service, one.worker, self.spells[key].state, one.state, one.since, why, source)
                self._whole(one.service, one.since, why, source)
        for key in [key for key in self.spells if key[1] and key not in alive and key not in reported]:
            if now - self.spells[key].seen_at.timestamp() <= GONE_AFTER_S:
                continue
            self._leave(*key, now)
        for key in alive:
            row = self.spells[key]
            # Once a while, not each second: it only has to tell a fresh silence from an old one.
            if now - row.seen_at.timestamp() > GONE_AFTER_S / 2:
                row.seen_at = _time(now)
                self._touched[key] = row

    def _begin(self, service: str, worker: str, state: str, since: float) -> None:
        row = BreakerSpellNow(service=service, worker=worker, state=state, since=_time(since), seen_at=_time(since))
        self.spells[service, worker] = self._touched[service, worker] = row

    def _move(self, service: str, worker: str, before: str, after: str, at: float, reason: str, source: str) -> None:
        row = self.spells.get((service, worker))
        seconds = max(at - row.since.timestamp(), 0.0) if row else 0.0
        if row is None:
            self._begin(service, worker, after, at)
            row = self.spells[service, worker]
        row.state, row.since, row.reason, row.seen_at = after, _time(at), reason, _time(at)
        self._touched[service, worker] = row
        self._note(source, service, worker, before, after, at, seconds, reason)

    def _leave(self, service: str, worker: str, now: float) -> None:
        row = self.spells.pop((service, worker))
        self._touched.pop((service, worker), None)
        if row.pk:
            self._gone.add(row.pk)
        at = row.seen_at.timestamp()
        why = "the gateway worker stopped reporting"
        source = f"gone/{service}/{worker}/{at}"
        self._note(source, service, worker, row.state, "gone", at, max(at - row.since.timestamp(), 0.0), why)
        self._whole(service, now, why, source)

    def _whole(self, service: str, at: float, reason: str, source: str) -> None:
        """The service's breaker over all workers, and the event when that has changed."""
        state = worst_breaker(row.state for (name, worker), row in self.spells.items() if name == service and worker)
        row = self.spells.get((service, ""))
        if row is None:
            if state is not None:
                self._begin(service, "", state, at)
            return
        if state == row.state:
            return
        before, seconds = row.state, max(at - row.since.timestamp(), 0.0)
        self._note(f"{source}/all", service, "", before, state or "gone", at, seconds, reason)
        if state is None:
            self.spells.pop((service, ""))
            self._touched.pop((service, ""), None)
            if row.pk:
                self._gone.add(row.pk)
            return
        row.state, row.since, row.reason = state, _time(at), reason
        self._touched[service, ""] = row
        data = {"service": service, "from": before, "to": state, "reason": reason, "at": at, "seconds": seconds}
        self._drafts.append(Draft(f"system.breaker.{EVENTS[state]}", data, subject=service))

    def _note(
        self, source: str, service: str, worker: str, before: str, after: str, at: float, seconds: float, reason: str
    ) -> None:
        self._history.append(
            BreakerTransition(
                stream_id=source[:160],
                service=service,
                worker=worker,
                from_state=before,
                to_state=after,
                at=_time(at),
                seconds=round(seconds, 3),
                reason=reason,
            )
        )

    def write(self) -> None:
        BreakerTransition.objects.bulk_create(self._history, ignore_conflicts=True)
        if self._gone:
            BreakerSpellNow.objects.filter(pk__in=self._gone).delete()
        BreakerSpellNow.objects.bulk_create(
            self._touched.values(),
            update_conflicts=True,
            unique_fields=["service", "worker"],
            update_fields=["state", "since", "reason", "seen_at"],
        )
        publish_all(self._drafts)
        for draft in self._drafts:
            log.warning("Breaker of %s: %s, %s", draft.subject, draft.type.rpartition(".")[2], draft.data["reason"])


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
