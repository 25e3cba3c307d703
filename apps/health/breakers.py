"""Breaker tracking: what gateway workers report on Redis becomes history, events, and time in state.

The stream is read from a stored cursor, and the cursor moves in the transaction that stores what was
read: every transition is recorded once, also when two trackers run or one is killed. The hash of
present states is looked at as well, since a worker that dies says nothing: its breakers are gone,
and a service must not stay open in the books because of a process that no longer exists.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from opentelemetry import metrics

from apps.events.actions import publish_all
from apps.events.storing import Draft
from apps.health.models import BreakerSpellNow, BreakerTransition, Cursor
from apps.health.spells import worst_breaker
from apps.lib import kv
from apps.lib.border import MALFORMED, is_spoilt, out_of_reach
from apps.lib.messages import BreakerReport
from apps.lib.messages import BreakerTransition as Transition
from apps.lib.wire import BREAKER_STATE, BREAKER_TRANSITIONS

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
recorded = meter.create_counter("mc.breakers.transitions", description="Breaker transitions recorded")

CURSOR = "breaker-transitions"
READ_AT_ONCE = 500
DAY_S = 86_400.0
GONE_AFTER_S = 10.0
"""A worker refreshes its states every 2 s."""

EVENTS = {"open": "opened", "half_open": "half-opened", "closed": "closed"}


@dataclass(frozen=True, slots=True)
class Report:
    """One transition as a worker reported it."""

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
        pipe.xrange(BREAKER_TRANSITIONS, min=f"({_within_reach(cursor.position, now)}", count=READ_AT_ONCE)
        if look_around:
            pipe.hgetall(BREAKER_STATE)
        entries, *rest = _read(pipe)
        if not entries and not look_around:
            return total
        last = len(entries) < READ_AT_ONCE
        reports = _unheard([report for entry in entries if (report := _read_report(*entry))], now)
        present = None
        if last and look_around:
            states = settings.WIRE.open_all(BreakerReport, rest[0], BREAKER_STATE)
            present = [found for field, state in states.items() if (found := _read_present(field, state))]
        try:
            total += _record(cursor.position, entries[-1][0] if entries else "", reports, present, now)
        except _Overtaken:
            return total
        if last:
            return total


def _read(pipe: Any) -> list[Any]:
    """The stream's entries, and the hash when that was asked for; what is of another type is as good as empty."""
    found: list[Any] = pipe.execute(raise_on_error=False)
    for n, name in zip(range(len(found)), (BREAKER_TRANSITIONS, BREAKER_STATE), strict=False):
        if isinstance(found[n], Exception):
            if not is_spoilt(found[n]):
                raise found[n]
            settings.WIRE.pass_over(MALFORMED, name)
            found[n] = {}
    return found


def _within_reach(position: str, now: float) -> str:
    """The cursor, unless a stranger's entry took it to where no time of ours will come: then from the start."""
    return "0-0" if out_of_reach(position, now) else position


def _read_report(entry: str, fields: dict[str, str]) -> Report | None:
    sealed = fields.get("m", "")
    found: Transition | None = settings.WIRE.open(Transition, sealed, BREAKER_TRANSITIONS)
    if found is None:
        log.warning("Entry %s of %s is no breaker transition of ours.", entry, BREAKER_TRANSITIONS)
        return None
    # Named by what it says and not by its place: said a second time, it is not a second transition.
    name = hashlib.sha256(sealed.encode()).hexdigest()
    return Report(name, found.service, found.worker, found.before, found.after, found.reason[:300], found.at)


def _unheard(reports: list[Report], now: float) -> list[Report]:
    """Without those that are recorded, or were long ago: whoever can write to Redis can say again what was said."""
    oldest = now - settings.HISTORY_DAYS * DAY_S
    known = BreakerTransition.objects.filter(stream_id__in=[report.id for report in reports])
    heard = set(known.values_list("stream_id", flat=True)) if reports else set()
    return [report for report in reports if report.id not in heard and report.at > oldest]


def _read_present(field: str, report: BreakerReport) -> Present | None:
    service, _, worker = field.partition("|")
    if not (0 < len(service) <= 63 and 0 < len(worker) <= 120):
        settings.WIRE.pass_over(MALFORMED, BREAKER_STATE)
        return None
    return Present(service, worker, report.state, report.since, report.at)


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
