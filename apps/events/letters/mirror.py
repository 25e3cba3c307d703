"""Makes dead letters of what services report about their parked events.

The reports came from the bus into the log, signed by who speaks: a group is believed about itself alone. Each is taken
once, in the transaction of the row that says so (apps.events.subscriptions.handlers).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from django.db import transaction

from apps.events.letters import queue
from apps.events.letters.core import MAX_ERROR, MAX_STACK, bounded, fingerprint
from apps.events.letters.models import MAX_IDENTITY, MAX_KEY, DeadLetter
from apps.events.models import Event, Subscription
from apps.events.subscriptions import handlers
from services.kit.events import patterns
from services.kit.events.reporting import PARKED, RESOLVED, STARTED
from services.kit.events.retry import Permanent

TYPES: Final = (STARTED, PARKED, RESOLVED)
GROUP: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_PATTERNS: Final = 100
MAX_BODY: Final = 64 * 1024
REASONS: Final = {"ProcessDied": "process_died", "odd": "odd", "forged": "forged", "Unfit": "schema", "Behind": ""}
"""Classes by the kind that a service names; whatever else a handler raised is ``handler``."""

State = DeadLetter.State


def handle(event: Event) -> None:
    """Take one report; Permanent for one that nobody could have meant."""
    data = event.data if isinstance(event.data, dict) else {}
    group = data.get("group")
    if not isinstance(group, str) or not GROUP.fullmatch(group):
        raise Permanent("The report names no group that could be a subscription's.")
    if event.source != group:
        raise Permanent(f"{event.source} reports about {group}: a group is believed about itself alone.")
    with transaction.atomic():
        subscription = _subscription(group)
        if event.type == STARTED:
            _started(subscription, data, event.time)
        elif event.type == PARKED:
            _parked(subscription, data, event)
        elif event.type == RESOLVED:
            _resolved(subscription, data)


def _subscription(group: str) -> Subscription:
    found, _ = Subscription.objects.get_or_create(name=group, defaults={"kind": Subscription.Kind.CONSUMER})
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
    Subscription.objects.filter(pk=subscription.pk).update(patterns=said, seen_at=at)


def _parked(subscription: Subscription, data: dict[str, Any], report: Event) -> None:
    try:
        said = _read(data)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Permanent(f"The report can't be understood: {type(error).__name__} {error}") from None
    identity = {"subscription": subscription, "source": said.pop("source"), "event_id": said.pop("event_id")}
    letter = DeadLetter.objects.select_for_update().filter(**identity, replay=0).first()
    if letter is None:
        letter = DeadLetter(**identity, place=report.position, created_at=report.time, state=said["state"])
    elif letter.closed_at is not None and letter.closed_at > report.time:
        return  # it is older than what ended it
    tried_in_vain = letter.state == State.REDRIVING and said["attempts"] > letter.attempts
    waits = letter.state == State.REDRIVING and not tried_in_vain
    for name, value in said.items():
        setattr(letter, name, value)
    if waits:
        letter.state = State.REDRIVING
    letter.key = f"{letter.source}/{letter.wire_key}" if letter.wire_key else f"{letter.source}#{letter.event_id}"
    letter.key = letter.key[:MAX_KEY]
    letter.fingerprint = ""
    if letter.state != State.PARKED:
        letter.fingerprint = fingerprint(subscription.name, letter.reason, letter.error)
    letter.closed_at = None
    letter.stored = Event.objects.filter(event_id=letter.event_id, source=letter.source).first()
    letter.save()
    if tried_in_vain:
        queue.count(letter.job_id, succeeded=False)


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


def _resolved(subscription: Subscription, data: dict[str, Any]) -> None:
    rows = DeadLetter.objects.select_for_update(of=("self",)).select_related("subscription")
    letter = rows.filter(
        subscription=subscription, source=data.get("source", ""), event_id=data.get("event_id"), replay=0
    ).first()
    if letter is None:
        return
    how = data.get("how")
    state = State.DISCARDED if how == "discarded" else State.RESOLVED
    try:
        at = float(data["at"])
        _moment(at)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Permanent("The report must say when it was.") from None
    queue.close(letter, state, at)


HANDLER: Final = handlers.Handler("letters", TYPES, handle)
