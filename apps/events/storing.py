"""How drafts become rows: identity, version, position, outbox. Whether they may is decided before (actions)."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import connection
from django.db.models import Model
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


def _insert(model: type[Model], columns: Sequence[str]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    return f'INSERT INTO "{model._meta.db_table}" ({names}) VALUES ({", ".join(["%s"] * len(columns))})'  # noqa: S608


EVENT = [field.attname for field in Event._meta.concrete_fields]
WAITING = [field.attname for field in OutboxMessage._meta.concrete_fields]
TYPE, TIME, EXTENSIONS, STREAM = map(EVENT.index, ("type", "time", "extensions", "stream"))
INSERT_EVENT, INSERT_WAITING = _insert(Event, EVENT), _insert(OutboxMessage, WAITING)


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
    datacontenttype: str = "application/json"

    @property
    def place(self) -> str:
        """The stream that this event goes to."""
        if self.outside:
            return foreign_stream(self.source, self.stream or self.subject)
        return self.stream or self.subject or self.source


def store(drafts: Sequence[Draft], data: Sequence[bytes], now: float, context: trace.SpanContext) -> list[Event]:
    """Write ``drafts``, whose data as JSON is ``data``, in the transaction that is open; they are the next versions of
    their streams.

    EventError, and nothing is written, for data that its type's schema refuses.
    """
    schemas = check((draft.type, draft.schema_version, draft.data) for draft in drafts)
    at = datetime.fromtimestamp(now, UTC)
    traceparent = correlation = ""
    if context.is_valid:
        correlation = format(context.trace_id, "032x")
        traceparent = f"00-{correlation}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    places = [draft.place for draft in drafts]
    versions = _reserve(places)
    position = versions.pop(ALL, None)
    chances = secrets.randbits(RANDOM_BITS * len(drafts))
    events = []
    for pk, draft, place, schema_version in zip(_take_ids(len(drafts)), drafts, places, schemas, strict=True):
        versions[place] += 1
        if position is not None:
            position += 1
        uid = draft.id or uuid7(now, chances)
        chances >>= RANDOM_BITS
        events.append(
            (
                pk,
                position,
                uid,
                draft.type,
                draft.source,
                draft.subject,
                datetime.fromtimestamp(draft.time, UTC) if draft.time else at,
                draft.datacontenttype,
                draft.data,
                draft.extensions,
                schema_version,
                "",
                place,
                versions[place],
                True,
                draft.correlation_id or correlation or uid,
                draft.causation_id,
                draft.traceparent or traceparent,
                "",
            )
        )
    _write(events, data, at)
    _write_tags(events, drafts)
    alias = connection.alias
    return [Event.from_db(alias, EVENT, row) for row in events]


def _write(events: Sequence[tuple[Any, ...]], data: Sequence[bytes], at: datetime) -> None:
    """Rows of statements that are prepared once: models, and SQL for each number of them, cost more than the rows."""
    stamp = connection.ops.adapt_datetimefield_value
    due, shards = stamp(at), {row[STREAM]: shard_of(row[STREAM]) for row in events}
    rows = []
    for row, body in zip(events, data, strict=True):
        time = due if row[TIME] is at else stamp(row[TIME])
        extensions = msgspec.json.encode(row[EXTENSIONS]).decode() if row[EXTENSIONS] else "{}"
        rows.append((*row[:TIME], time, row[TIME + 1], body.decode(), extensions, *row[EXTENSIONS + 1 :]))
    with connection.cursor() as cursor:
        cursor.executemany(INSERT_EVENT, rows)
        cursor.executemany(
            INSERT_WAITING,
            [
                (row[0], row[TYPE].partition(".")[0], shards[row[STREAM]], row[STREAM], 0, None, None, "")
                for row in events
            ],
        )


def _write_tags(events: Sequence[tuple[Any, ...]], drafts: Sequence[Draft]) -> None:
    EventTag.objects.bulk_create(
        EventTag(event_id=row[0], tag=tag)
        for row, draft in zip(events, drafts, strict=True)
        for tag in dict.fromkeys(draft.tags)
    )


def _take_ids(count: int) -> Iterable[int]:
    """Primary keys for ``count`` events of this transaction."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            # Who publishes is the one writer by now, and an explicit key moves the counter as its own would.
            cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [Event._meta.db_table])
            [last] = cursor.fetchone() or (0,)
            return range(last + 1, last + 1 + count)
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [Event._meta.db_table, count],
        )
        return [pk for (pk,) in cursor.fetchall()]


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


def _reserve(places: Sequence[str]) -> dict[str, int]:
    """Take a version per event, given the stream of each; returns the version before the first of each stream.

    The row stays locked until the caller commits, so a stream's versions are also its order of commits.
    Streams are taken in sorted order: two publishers to the same streams can't wait for each other.
    """
    wanted = Counter(places)
    if numbers_itself():
        wanted[ALL] = len(places)
    names = sorted(wanted)
    before: dict[str, int] = {}
    with connection.cursor() as cursor:
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            statement = RESERVE.format(table=Stream._meta.db_table, rows=", ".join(["(%s, %s)"] * len(part)))
            cursor.execute(statement, [value for name in part for value in (name, wanted[name])])
            before.update((name, version - wanted[name]) for name, version in cursor.fetchall())
    return before
