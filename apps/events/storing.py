"""How drafts become rows: identity, version, position, outbox. Whether they may is decided before (actions)."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from opentelemetry import trace

from apps.events.ids import RANDOM_BITS, uuid7
from apps.events.models import ALL, Event, EventTag, OutboxMessage, Stream, foreign_stream, shard_of
from apps.events.schemas.checking import check

AT_ONCE = 500
"""Streams in one statement: each takes two of its parameters."""

# Both databases let a statement add a row or take the next number of the one that is there, and say which it was.
RESERVE = """
INSERT INTO {table} AS head (name, version) VALUES {rows}
ON CONFLICT (name) DO UPDATE SET version = head.version + excluded.version
RETURNING name, version
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has an identity. An empty ``stream`` means the subject, else the source.

    ``tags`` are what boundaries and queries find it by, whatever its stream, such as ``student:7``.
    ``schema_version`` is the version of its type's schema that ``data`` is written in; 0 means the newest.
    ``outside``: another's, published in their name: in a stream of their source, out of reach of ours. Only such have
    an ``id`` and a ``time`` of their own, and a trace that is not this process's.
    """

    type: str
    data: dict[str, Any]
    subject: str = ""
    source: str = "mission-control"
    stream: str = ""
    causation_id: str = ""
    tags: tuple[str, ...] = ()
    schema_version: int = 0
    outside: bool = False
    id: str = ""
    time: float = 0.0
    correlation_id: str = ""
    traceparent: str = ""
    extensions: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The stream that this event goes to."""
        if self.outside:
            return foreign_stream(self.source, self.stream or self.subject)
        return self.stream or self.subject or self.source


def store(drafts: Sequence[Draft], now: float, context: trace.SpanContext) -> list[Event]:
    """Write ``drafts`` in the transaction that is open; they are the next versions of their streams.

    EventError, and nothing is written, for data that its type's schema refuses.
    """
    schemas = check((draft.type, draft.schema_version, draft.data) for draft in drafts)
    at = datetime.fromtimestamp(now, UTC)
    traceparent = correlation = ""
    if context.is_valid:
        correlation = format(context.trace_id, "032x")
        traceparent = f"00-{correlation}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    versions = _reserve(drafts)
    events = []
    for draft, schema_version in zip(drafts, schemas, strict=True):
        versions[draft.place] += 1
        if ALL in versions:
            versions[ALL] += 1
        uid = draft.id or str(uuid7(now, secrets.randbits(RANDOM_BITS)))
        events.append(
            Event(
                event_id=uid,
                type=draft.type,
                source=draft.source,
                subject=draft.subject,
                time=datetime.fromtimestamp(draft.time, UTC) if draft.time else at,
                data=draft.data,
                schema_version=schema_version,
                position=versions.get(ALL),
                stream=draft.place,
                version=versions[draft.place],
                correlation_id=draft.correlation_id or correlation or uid,
                causation_id=draft.causation_id,
                traceparent=draft.traceparent or traceparent,
                extensions=draft.extensions,
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
    EventTag.objects.bulk_create(
        EventTag(event=event, tag=tag)
        for event, draft in zip(events, drafts, strict=True)
        for tag in dict.fromkeys(draft.tags)
    )
    return events


def numbers_itself() -> bool:
    """Whether who publishes also gives positions: on SQLite, where one writer is alone from BEGIN IMMEDIATE to its
    commit. Elsewhere apps.events.sequencer does, when it is committed."""
    return bool(connection.vendor == "sqlite")


def take_positions(count: int) -> int:
    """The first of ``count`` positions for rows of this transaction, where ``numbers_itself``."""
    with connection.cursor() as cursor:
        cursor.execute(RESERVE.format(table=Stream._meta.db_table, rows="(%s, %s)"), [ALL, count])
        [(_, last)] = cursor.fetchall()
    return int(last) - count + 1


def _reserve(drafts: Sequence[Draft]) -> dict[str, int]:
    """Take a version per draft; returns the version before the first of each stream.

    The row stays locked until the caller commits, so a stream's versions are also its order of commits.
    Streams are taken in sorted order: two publishers to the same streams can't wait for each other.
    """
    wanted = Counter(draft.place for draft in drafts)
    if numbers_itself():
        wanted[ALL] = len(drafts)
    names = sorted(wanted)
    before: dict[str, int] = {}
    with connection.cursor() as cursor:
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            statement = RESERVE.format(table=Stream._meta.db_table, rows=", ".join(["(%s, %s)"] * len(part)))
            cursor.execute(statement, [value for name in part for value in (name, wanted[name])])
            before.update((name, version - wanted[name]) for name, version in cursor.fetchall())
    return before
