"""Makes dead letters of what services report about their parked events.

The reports came from the bus into the log, signed by who speaks: a group is believed about itself alone. Each is taken
once, in the transaction of the row that says so (apps.events.subscriptions.handlers).
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Q
from opentelemetry import metrics

from apps.events.letters import queue, reports
from apps.events.letters.core import MAX_ERROR, MAX_STACK, bounded, fingerprint
from apps.events.letters.models import MAX_IDENTITY, MAX_KEY, DeadLetter
from apps.events.models import Event, Subscription
from apps.events.subscriptions import handlers
from services.kit.events import patterns
from services.kit.events.reporting import PARKED, RESOLVED, STARTED
from services.kit.events.retry import Permanent

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
refused = meter.create_counter("mc.letters.refused", description="Reports of parked events refused, by reason")

TYPES: Final = (STARTED, PARKED, RESOLVED)
GROUP: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_GROUPS: Final = 1000
"""Subscriptions that are services' at most; each key of a service may name but its own group."""
MAX_PATTERNS: Final = 100
MAX_BODY: Final = 64 * 1024
NOTES: Final = {"unknown": "The service has no such row (any more), and did not handle it."}
REASONS: Final = {"ProcessDied": "process_died", "odd": "odd", "forged": "forged", "Unfit": "schema", "Behind": ""}
"""Classes by the kind that a service names; whatever else a handler raised is ``handler``."""

State = DeadLetter.State


class TooMany(Permanent):
    """One more group than there may be."""


def handle(event: Event) -> None:
    """Take one report. One that nobody could have meant is counted and shown: a letter for it would hold up what its
    service reports after it, and there may be any number of them."""
    try:
        _take(event)
    except Permanent as error:
        why = "no_room" if isinstance(error, TooMany) else "unclear"
        refused.add(1, {"reason": why})
        log.debug("A report of %s (event %s) was refused: %s", event.source, event.event_id, error)
        rows = Subscription.objects.filter(name=HANDLER.name)
        rows.update(failed=F("failed") + 1, last_error=bounded(f"{event.event_id}: {error}", MAX_ERROR))


def _take(event: Event) -> None:
    data = event.data if isinstance(event.data, dict) else {}
    group = data.get("group")
    if not isinstance(group, str) or not GROUP.fullmatch(group):
        raise Permanent("The report names no group that could be a subscription's.")
    if event.source != group:
        raise Permanent(f"{event.source} reports about {group}: a group is believed about itself alone.")
    subscription = _subscription(group)
    with transaction.atomic():
        queue.hold(subscription.pk)
        if event.type == STARTED:
            _started(subscription, data, event.time)
        elif event.type == PARKED:
            _parked(subscription, data, event)
        elif event.type == RESOLVED:
            _resolved(subscription, data, event)


def _subscription(group: str) -> Subscription:
    found = Subscription.objects.filter(name=group).first()
    if found is None:
        if Subscription.objects.filter(kind=Subscription.Kind.CONSUMER).count() >= MOST_GROUPS:
            raise TooMany(f"There are {MOST_GROUPS:,} subscriptions of services: no room for '{group}'.")
        found = Subscription.objects.create(name=group, kind=Subscription.Kind.CONSUMER)
    if found.kind != Subscription.Kind.CONSUMER:
        raise Permanent(f"There is a subscription {group} that is no service's.")
    return found


def _started(subscription: Subscription, data: dict[str, Any], at: datetime) -> None:
    said = data.get("patterns")
    if not isinstance(said, list) or len(said) > MAX_PATTERNS:
        raise Permanent(f"The announcement must list its patterns, {MAX_PATTERNS} at most.")
    try:
        for one in said:
            patterns.segments(one)
    except (patterns.PatternError, TypeError, AttributeError) as error:
        raise Permanent(str(error)) from None
    # The newest start says what it reads, whichever was heard of last.
    rows = Subscription.objects.filter(Q(seen_at=None) | Q(seen_at__lte=at), pk=subscription.pk)
    rows.update(patterns=said, seen_at=at)


def _parked(subscription: Subscription, data: dict[str, Any], report: Event) -> None:
    try:
        said, stamp = _read(data), _stamp(data, "first_at")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Permanent(f"The report can't be understood: {type(error).__name__} {error}") from None
    identity = {"subscription": subscription, "source": said.pop("source"), "event_id": said.pop("event_id")}
    letter = DeadLetter.objects.select_for_update().filter(**identity, replay=0).first()
    died = said["reason"] == REASONS["ProcessDied"]
    change = reports.parked(letter and _known(letter), stamp, said["state"], said["attempts"], died=died)
    if change is None:
        return
    if letter is None:
        letter = DeadLetter(**identity, place=report.position, created_at=report.time)
    for name, value in said.items():
        setattr(letter, name, value)
    letter.state = State(change.state)
    if change.newest:
        letter.told_began, letter.told_row, letter.told_changed = stamp
    letter.key = _key(letter.source, letter.event_id, letter.wire_key)
    letter.fingerprint = ""
    if said["state"] != State.PARKED:
        letter.fingerprint = fingerprint(subscription.name, letter.reason, letter.error)
    if letter.is_open:
        letter.closed_at = None
    else:
        letter.next_at = None
    letter.stored = Event.objects.filter(event_id=letter.event_id, source=letter.source).first()
    letter.save()
    if change.in_vain:
        queue.count(letter.job_id, succeeded=False)


def _known(letter: DeadLetter) -> reports.Known:
    stamp = reports.Stamp(letter.told_began, letter.told_row, letter.told_changed)
    if letter.closed_at is not None and not stamp.began:
        # It ended before ends were counted.
        stamp = reports.Stamp(letter.closed_at.timestamp())
    return reports.Known(letter.state, letter.attempts, stamp, bare=letter.partition is None)


def _key(source: str, event_id: str, wire_key: str) -> str:
    return (f"{source}/{wire_key}" if wire_key else f"{source}#{event_id}")[:MAX_KEY]


def _stamp(data: dict[str, Any], began: str) -> reports.Stamp:
    """ValueError, TypeError or OverflowError for one that is none."""
    if "row" not in data:
        return reports.Stamp(_moment(data[began]).timestamp())
    row, changed = int(data["row"]), int(data["changed"])
    if not (0 <= row < 2**63 and 0 <= changed < 2**31):
        raise ValueError("row and changed must be counts.")
    return reports.Stamp(_moment(data["first_at"]).timestamp(), row, changed)


def _read(data: dict[str, Any]) -> dict[str, Any]:
    """The letter's columns by the report; KeyError, TypeError or ValueError for what is none."""
    kind = _text(data, "kind", 64)
    parked = data["state"] == State.PARKED
    reason = REASONS.get(kind, "handler")
    error = _text(data, "reason", MAX_ERROR)
    due = data.get("due")
    return {
        "source": _text(data, "source", MAX_IDENTITY),
        "event_id": _text(data, "event_id", MAX_IDENTITY, needed=True),
        "type": _text(data, "type", 128),
        "wire_key": _text(data, "key", MAX_IDENTITY),
        "topic": _text(data, "topic", 255),
        "partition": int(data["partition"]) % 2**31,
        "offset": _text(data, "position", 64),
        "state": State.PARKED if parked else State.FAILED,
        "reason": reason,
        "error": bounded(f"{kind}: {error}" if reason == "handler" else error, MAX_ERROR),
        "stack": _text(data, "stack", MAX_STACK),
        "attempts": min(max(int(data["tries"]), 0), 2**31 - 1),
        "first_failed_at": None if parked else _moment(data["first_at"]),
        "last_failed_at": None if parked else _moment(data["last_at"]),
        "next_at": None if parked or not due else _moment(due),
        "body": _text(data, "body", MAX_BODY) or None,
    }


def _text(data: dict[str, Any], name: str, most: int, *, needed: bool = False) -> str:
    value = data.get(name, "")
    if not isinstance(value, str) or (needed and not value):
        raise ValueError(f"{name} must be text.")
    return bounded(value, most)


def _moment(value: Any) -> datetime:
    return datetime.fromtimestamp(float(value), UTC)


def _resolved(subscription: Subscription, data: dict[str, Any], report: Event) -> None:
    how = data.get("how")
    state = State.DISCARDED if how in {"discarded", "unknown"} else State.RESOLVED
    try:
        at, stamp = _moment(data["at"]), _stamp(data, "at")
        source, event_id = _text(data, "source", MAX_IDENTITY), _text(data, "event_id", MAX_IDENTITY, needed=True)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Permanent(f"The report can't be understood: {type(error).__name__} {error}") from None
    rows = DeadLetter.objects.select_for_update(of=("self",)).select_related("subscription")
    letter = rows.filter(subscription=subscription, source=source, event_id=event_id, replay=0).first()
    change = reports.ended(letter and _known(letter), stamp, state)
    if change is None:
        return
    told = {"told_began": stamp.began, "told_row": stamp.row, "told_changed": stamp.changed}
    if letter is None:
        # What it was may still be told: it won't be open by that.
        key = _key(source, event_id, "")
        DeadLetter.objects.create(
            subscription=subscription,
            source=source,
            event_id=event_id,
            key=key,
            place=report.position,
            created_at=report.time,
            state=state,
            closed_at=at,
            **told,
        )
    elif not queue.close(letter, state, at.timestamp(), **told, note=letter.note or NOTES.get(str(how), "")):
        # Somebody ended it here, before the service had its way.
        DeadLetter.objects.filter(pk=letter.pk).update(state=state, closed_at=at, **told)


HANDLER: Final = handlers.Handler("letters", TYPES, handle)
