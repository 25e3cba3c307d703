"""Edit and retry: an event that can't be handled as it is, is delivered with other data, to that subscription alone.

What it says of itself stays: type, source, subject and key. It gets an id of its own, names its original as its cause,
and is a letter in the original's place, so that its key stays in order. The original is resolved, with a link.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from apps.events.actions import publish
from apps.events.ids import RANDOM_BITS, uuid7
from apps.events.letters import actions, queue
from apps.events.letters.actions import audit, closed, command, refuse
from apps.events.letters.models import DeadLetter
from apps.events.models import Event, Subscription
from apps.events.schemas.checking import check
from apps.events.storing import numbers_itself, take_positions
from apps.lib import clock
from services.kit.events.cloudevent import EventError, check_data, encode
from services.kit.events.reporting import REPLACE

MOST_CHANGES = 200
"""That a difference lists."""

State = DeadLetter.State


def edit(letter: DeadLetter, data: Any, *, actor: str, note: str) -> DeadLetter:
    """Deliver ``data`` in the place of what the letter holds; the new letter.

    EventError for data that can't be an event's or that its schema refuses. Refused for a letter that is closed or
    under way, that holds no event, or that waits behind another.
    """
    original: Event | None = letter.event
    if original is None:
        raise refuse("no_event", "The log does not have its event: there is nothing to edit.", 422)
    if letter.replay:
        raise refuse("replayed", "A replayed event is history: it is not edited.", 422)
    if not isinstance(data, dict):
        raise EventError("The event's data must be a JSON object.")
    check_data(data)
    if data == original.data:
        raise EventError("The data is what it was: to try that again, redrive the letter.")
    version = original.schema_version
    [version] = check([(original.type, version, data)])
    with transaction.atomic():
        queue.hold(letter.subscription_id)
        now = clock.wall()
        at = datetime.fromtimestamp(now, UTC)
        heads = DeadLetter.objects.filter(pk=letter.pk, state__in=[State.FAILED, State.RETRYING])
        # Nobody else can give the word for it from here on.
        if not heads.update(state=State.FAILED, next_at=None):
            letter.refresh_from_db()
            if not letter.is_open:
                raise closed(letter)
            raise refuse("letter_busy", f"Letter {letter.pk} is {letter.state}: only what was given up is edited.")
        event = _store(letter, original, data, version, now)
        edited = DeadLetter.objects.create(
            subscription=letter.subscription,
            source=event.source,
            event_id=event.event_id,
            type=event.type,
            key=letter.key,
            wire_key=letter.wire_key or original.partition_key,
            place=letter.place,
            stored=event,
            state=State.REDRIVING,
            next_at=at,
            created_at=at,
            actor=actor,
            note=note,
        )
        audit(edited, original=letter.pk, change=difference(original.data, data), note=note, actor=actor)
        if letter.subscription.kind == Subscription.Kind.CONSUMER:
            command(REPLACE, [letter], body=encode(edited.as_cloudevent()).decode())
        letter.state = State.FAILED
        queue.close(letter, State.RESOLVED, now, actor=actor, note=note or letter.note, replaced_by=event)
        audit(letter, state=State.RESOLVED, replaced_by=event.event_id, note=note, actor=actor)
        publish(
            "system.letter.edited",
            {
                "letter": edited.pk,
                "original": letter.pk,
                "subscription": letter.subscription.name,
                "event_id": event.event_id,
                "original_id": original.event_id,
                "actor": actor,
            },
            stream=f"letter/{letter.pk}",
            causation_id=original.event_id,
        )
        transaction.on_commit(actions.wake)
    return edited


def _store(letter: DeadLetter, original: Event, data: Any, schema_version: int, now: float) -> Event:
    """The edited event in the log, for that subscription alone: no broker gets it, and no stream of others has it."""
    return Event.objects.create(
        event_id=uuid7(now, secrets.randbits(RANDOM_BITS)),
        position=take_positions(1) if numbers_itself() else None,
        type=original.type,
        source=original.source,
        subject=original.subject,
        time=datetime.fromtimestamp(now, UTC),
        datacontenttype=original.datacontenttype,
        data=data,
        schema_version=schema_version,
        dataschema=original.dataschema,
        stream=f"{queue.EDITED}{letter.pk}",
        version=1,
        numbered=False,
        correlation_id=original.correlation_id,
        causation_id=original.event_id,
        addressee=letter.subscription.name,
    )


def difference(before: Any, after: Any) -> list[dict[str, Any]]:
    """What changed, by JSON pointer (RFC 6901): ``path``, ``before``, ``after``; the first 200 changes."""
    found: list[dict[str, Any]] = []
    _differ("", before, after, found)
    return found[:MOST_CHANGES]


def _differ(path: str, before: Any, after: Any, found: list[dict[str, Any]]) -> None:
    if len(found) >= MOST_CHANGES or before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            step = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            if name not in before:
                found.append({"path": step, "after": after[name]})
            elif name not in after:
                found.append({"path": step, "before": before[name]})
            else:
                _differ(step, before[name], after[name], found)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            _differ(f"{path}/{number}", one, other, found)
    else:
        found.append({"path": path, "before": before, "after": after})
