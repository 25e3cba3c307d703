"""The one way to publish an event from inside Mission Control.

The event and its outbox row are written in the caller's transaction: either the change and its
event are both there, or neither is. The relay takes it to the bus afterwards.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from opentelemetry import trace

from apps.events.ids import RANDOM_BITS, uuid7
from apps.events.models import ALL, Event, OutboxMessage, Stream, shard_of
from apps.events.nudges import nudge
from apps.lib import clock
from services.kit.events.cloudevent import EventError, check_data, check_type

tracer = trace.get_tracer(__name__)

MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has an identity. An empty ``stream`` means the subject, else the source."""

    type: str
    data: dict[str, Any]
    subject: str = ""
    source: str = "mission-control"
    stream: str = ""
    causation_id: str = ""

    @property
    def place(self) -> str:
        """The stream that this event goes to."""
        return self.stream or self.subject or self.source


def publish(
    type: str,
    data: dict[str, Any],
    *,
    subject: str = "",
    source: str = "mission-control",
    stream: str = "",
    causation_id: str = "",
) -> Event:
    """Store one event and its outbox row in the caller's transaction (or in one of its own).

    ``type`` reads ``domain.noun.verb``; ``data`` is a JSON object of at most 1 MB. Events of one
    ``stream`` (default: the subject, else the source) reach the bus in order. EventError,
    before anything is written, for an event that can't be accepted.
    """
    return publish_all([Draft(type, data, subject, source, stream, causation_id)])[0]


def publish_all(drafts: Sequence[Draft]) -> list[Event]:
    """``publish`` for several events at once: all of them or none."""
    if not drafts:
        return []
    for draft in drafts:
        _check(draft)
    name = drafts[0].type if len({draft.type for draft in drafts}) == 1 else "events"
    with (
        tracer.start_as_current_span(f"publish {name}", kind=trace.SpanKind.PRODUCER) as span,
        transaction.atomic(),
    ):
        span.set_attributes({"messaging.system": "mission-control", "messaging.batch.message_count": len(drafts)})
        events = _store(drafts, span.get_span_context())
        transaction.on_commit(nudge)
    return events


def _check(draft: Draft) -> None:
    check_type(draft.type)
    if not isinstance(draft.data, dict):
        raise EventError("The event's data must be a JSON object.")
    check_data(draft.data)
    for name in ("subject", "source", "stream"):
        value = getattr(draft, name)
        if len(value) > MAX_TEXT or not value.isprintable():
            raise EventError(f"The event's {name} must be printable text of at most {MAX_TEXT} characters.")
    if not draft.source:
        raise EventError("The event must name its source.")


def _store(drafts: Sequence[Draft], context: trace.SpanContext) -> list[Event]:
    now = clock.wall()
    at = datetime.fromtimestamp(now, UTC)
    traceparent = correlation = ""
    if context.is_valid:
        correlation = format(context.trace_id, "032x")
        traceparent = f"00-{correlation}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    wanted = Counter(draft.place for draft in drafts)
    if numbers_itself():
        wanted[ALL] = len(drafts)
    versions = _reserve(wanted)
    events = []
    for draft in drafts:
        versions[draft.place] += 1
        if ALL in versions:
            versions[ALL] += 1
        uid = uuid7(now, secrets.randbits(RANDOM_BITS))
        events.append(
            Event(
                event_id=uid,
                type=draft.type,
                source=draft.source,
                subject=draft.subject,
                time=at,
                data=draft.data,
                position=versions.get(ALL),
                stream=draft.place,
                version=versions[draft.place],
                correlation_id=correlation or str(uid),
                causation_id=draft.causation_id,
                traceparent=traceparent,
            )
        )
    Event.objects.bulk_create(events)
    OutboxMessage.objects.bulk_create(
        OutboxMessage(
            event=event,
            topic=event.type.partition(".")[0],
            shard=shard_of(event.stream),
            partition_key=event.stream,
            next_at=at,
        )
        for event in events
    )
    return events


def numbers_itself() -> bool:
    """Whether who publishes also gives positions: on SQLite, where one writer is alone from BEGIN IMMEDIATE to its
    commit. Elsewhere apps.events.sequencer does, when it is committed."""
    return connection.vendor == "sqlite"


def _reserve(wanted: Counter[str]) -> dict[str, int]:
    """Take ``wanted`` versions per stream; returns the version before the first of each.

    The row stays locked until the caller commits, so a stream's versions are also its order of commits.
    Streams are taken in sorted order: two publishers to the same streams can't wait for each other.
    """
    before = {}
    for name in sorted(wanted):
        count = wanted[name]
        rows = Stream.objects.filter(name=name)
        if not rows.update(version=F("version") + count):
            _, created = Stream.objects.get_or_create(name=name, defaults={"version": count})
            if not created:
                rows.update(version=F("version") + count)
        before[name] = rows.values_list("version", flat=True).get() - count
    return before
