"""The one way to publish an event from inside Mission Control.

The event and its outbox row are written in the caller's transaction: either the change and its
event are both there, or neither is. The relay takes it to the bus afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import connection, transaction
from opentelemetry import trace

from apps.events.boundary import Boundary
from apps.events.deciding import first_beyond
from apps.events.models import FOREIGN, Event, PublishedKey
from apps.events.nudges import nudge
from apps.events.storing import Draft, store
from apps.lib import clock
from apps.lib.aio import in_thread
from apps.lib.turns import turn
from services.kit.events.cloudevent import EventError, check_data, check_type

tracer = trace.get_tracer(__name__)

MAX_TEXT = 255
MAX_TAGS = 32
MAX_SCHEMA = 2**15 - 1
APPENDING = 0x6D63_6C6F_67
"""PostgreSQL's advisory lock: whoever publishes shares it, whoever publishes within a boundary has it alone."""


class Conflict(Exception):
    """The log is not what the publisher took it for. Nothing was stored: read again, decide again."""


class VersionConflict(Conflict):
    """The stream is at ``actual`` and not at ``expected``."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"Stream {stream!r} is at version {actual}, not {expected}: something was published meanwhile."
        )
        self.stream, self.expected, self.actual = stream, expected, actual


class BoundaryConflict(Conflict):
    """``event`` matches the boundary and came after it was looked at."""

    def __init__(self, event: Event, after: int) -> None:
        super().__init__(f"Event {event.event_id} ({event.type}) was published after position {after}.")
        self.event, self.after = event, after


class KeyReused(EventError):
    """The idempotency key was used before, for something else."""


class NotAtomic(RuntimeError):
    """There is no transaction here that could hold the events and the change that they tell of as one."""


def publish(
    type: str,
    data: dict[str, Any],
    *,
    subject: str = "",
    source: str = "mission-control",
    stream: str = "",
    causation_id: str = "",
    tags: Sequence[str] = (),
    expected_version: int | None = None,
    schema_version: int = 0,
    idempotency_key: str = "",
    boundary: Boundary | None = None,
) -> Event:
    """Store one event and its outbox row in the caller's transaction (or in one of its own).

    ``type`` reads ``domain.noun.verb``; ``data`` is a JSON object of at most 1 MB. Events of one
    ``stream`` (default: the subject, else the source) reach the bus in order. EventError,
    before anything is written, for an event that can't be accepted; Violation, which is one, with the path of what
    the type's schema (its newest version, or ``schema_version``) refuses. The conditions are those of ``publish_all``.
    """
    draft = Draft(type, data, subject, source, stream, causation_id, tuple(tags), schema_version)
    [event] = publish_all(
        [draft], expected_version=expected_version, idempotency_key=idempotency_key, boundary=boundary
    )
    return event


def publish_all(
    drafts: Sequence[Draft],
    *,
    expected_version: int | None = None,
    idempotency_key: str = "",
    boundary: Boundary | None = None,
) -> list[Event]:
    """``publish`` for several events at once: all of them or none.

    ``expected_version``: only if their one stream stands there (0: it has no event yet); else VersionConflict.
    ``boundary``: only if no event has come that would change the decision; else BoundaryConflict. In a transaction
    that publishes more, what has a boundary comes first, or two of them may wait for each other until the database
    ends one. ``idempotency_key``: the same key with the same drafts answers with the events of the first time, as
    long as those are kept, and stores nothing; KeyReused with other drafts.

    Whatever is raised, nothing of these drafts is stored, and the caller's own transaction may go on.
    """
    if not drafts:
        return []
    data = _check(drafts, expected_version, idempotency_key)
    name = drafts[0].type if len({draft.type for draft in drafts}) == 1 else "events"
    with (
        tracer.start_as_current_span(f"publish {name}", kind=trace.SpanKind.PRODUCER) as span,
        turn(),
    ):
        span.set_attributes({"messaging.system": "mission-control", "messaging.batch.message_count": len(drafts)})
        now = clock.wall()
        known = None
        if idempotency_key:
            known, new = _known(idempotency_key, drafts, now)
            if not new:
                return _first_events(known)
        _append_lock(alone=boundary is not None)
        if boundary is not None and (found := first_beyond(boundary)) is not None:
            raise BoundaryConflict(found, boundary.after)
        events = store(drafts, data, now, span.get_span_context())
        if expected_version is not None and events[0].version != expected_version + 1:
            raise VersionConflict(events[0].stream, expected_version, events[0].version - 1)
        if known is not None:
            known.events = [event.pk for event in events]
            known.save(update_fields=["events"])
        transaction.on_commit(nudge)
    return events


async def apublish(type: str, data: dict[str, Any], **options: Any) -> Event:
    """``publish`` for asynchronous code, with the same options: one hop to the thread of the database.

    Who is cancelled meanwhile does not know whether it is stored; an ``idempotency_key`` lets it ask again.
    """
    return await in_thread(publish, type, data, **options)


async def apublish_all(drafts: Sequence[Draft], **options: Any) -> list[Event]:
    """``publish_all`` for asynchronous code, with the same options: one hop, however many events."""
    return await in_thread(publish_all, drafts, **options)


def _check(drafts: Sequence[Draft], expected_version: int | None, idempotency_key: str) -> list[bytes]:
    """Refuse what can't be stored, or could be stored by half, before anything is written; the data as JSON."""
    if not connection.in_atomic_block and not connection.get_autocommit():
        raise NotAtomic("The connection commits by hand: publish inside transaction.atomic().")
    if connection.in_atomic_block and connection.needs_rollback:
        raise NotAtomic("The transaction around this has failed and will be rolled back, and the events with it.")
    data = [check_draft(draft) for draft in drafts]
    if len(idempotency_key) > MAX_TEXT or not idempotency_key.isprintable():
        raise EventError(f"The idempotency key must be printable text of at most {MAX_TEXT} characters.")
    if expected_version is not None and len({draft.place for draft in drafts}) > 1:
        raise EventError("The events go to several streams, and an expected version speaks of one.")
    return data


def check_draft(draft: Draft) -> bytes:
    """The data as JSON; EventError for what can't be stored, whatever the log holds."""
    check_type(draft.type)
    if not isinstance(draft.data, dict):
        raise EventError("The event's data must be a JSON object.")
    data = check_data(draft.data)
    for name in ("subject", "source", "stream"):
        value = getattr(draft, name)
        if len(value) > MAX_TEXT or not value.isprintable():
            raise EventError(f"The event's {name} must be printable text of at most {MAX_TEXT} characters.")
    if not 0 <= draft.schema_version <= MAX_SCHEMA:
        raise EventError(f"The event's schema version must be from 0 to {MAX_SCHEMA:,}.")
    if not draft.outside and draft.place.startswith(FOREIGN):
        raise EventError(f"The event's stream must not begin with {FOREIGN}: such are those of other publishers.")
    if not draft.source:
        raise EventError("The event must name its source.")
    if len(draft.tags) > MAX_TAGS or any(not 0 < len(tag) <= MAX_TEXT or not tag.isprintable() for tag in draft.tags):
        raise EventError(f"The event's tags must be at most {MAX_TAGS} texts of 1 to {MAX_TEXT} printable characters.")
    return data


def _known(key: str, drafts: Sequence[Draft], now: float) -> tuple[PublishedKey, bool]:
    """What was published under ``key``, and whether that is to be now. Who comes second waits here for the first."""
    said = [(d.type, d.data, d.subject, d.source, d.place, d.causation_id, d.tags, d.schema_version) for d in drafts]
    content = hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()
    known, new = PublishedKey.objects.get_or_create(
        key=key, defaults={"content": content, "time": datetime.fromtimestamp(now, UTC)}
    )
    if known.content != content:
        raise KeyReused(f"The idempotency key {key!r} was used for other events; send a new key.")
    return known, new


def _first_events(known: PublishedKey) -> list[Event]:
    found = Event.objects.in_bulk(known.events)
    return [found[pk] for pk in known.events]


def _append_lock(*, alone: bool) -> None:
    """Keep those with a boundary apart from everyone who publishes, until the transaction ends.

    Without it two could look before either has stored, and both find nothing. On SQLite nobody else writes now.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_xact_lock{'' if alone else '_shared'}(%s)", [APPENDING])
