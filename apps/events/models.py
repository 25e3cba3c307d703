"""The event store and its outbox.

An ``Event`` is written once, in the transaction of the change it tells of, and gets one thing more: its
position in the log. Its ``OutboxMessage`` says whether the bus has it. Shards give relays something to
claim that keeps each stream in order: all of a stream's events lie in one shard.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter
from typing import Any
from zlib import crc32

from django.db import models
from django.db.models.base import ModelState

from apps.events.archive.models import Aside
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.routing.models import RoutingRevision, RoutingRule
from apps.events.schemas.models import EventType, SchemaReader, SchemaVersion
from apps.events.subscriptions.models import Attempt, Handled, Subscription
from services.kit.events.cloudevent import MAX_TEXT, MAX_TYPE, CloudEvent
from services.kit.events.schema import uri

__all__ = [
    "Aside",
    "Attempt",
    "DeadLetter",
    "EventType",
    "Handled",
    "RedriveJob",
    "RoutingRevision",
    "RoutingRule",
    "SchemaReader",
    "SchemaVersion",
    "Subscription",
]
"""Django looks for models here."""

SHARDS = 16
"""How many relays can publish at once, at most. A key's shard never moves while this stands."""


FOREIGN = "@"
"""How the streams of others' events begin, and none of ours: nobody writes into an aggregate's history from outside."""
MAX_EVENT_STREAM = 255
"""The longest name of a stream whose events leave by the outbox."""
MAX_STREAM = len(FOREIGN) + 3 * MAX_TEXT + 1 + MAX_TEXT
"""The longest name of a foreign stream, whose source is full of slashes."""

ALL = ""
"""The stream of all events: its version is the newest position in the log."""


def foreign_stream(source: str, partition_key: str) -> str:
    """The stream of what ``source`` published under ``partition_key``: ``@orders/42``.

    A slash within the source is escaped, so that no two of them have a stream in common.
    """
    return f"{FOREIGN}{source.replace('%', '%25').replace('/', '%2F')}/{partition_key}"


def publisher_of(stream: str) -> tuple[str, str]:
    """The source and the partition key of a foreign stream."""
    source, _, key = stream[len(FOREIGN) :].partition("/")
    return source.replace("%2F", "/").replace("%25", "%"), key


def wire_key(source: str, stream: str) -> str:
    """What the wire calls ``stream``, which has an event of ``source``."""
    return stream[len(foreign_stream(source, "")) :] if stream.startswith(FOREIGN) else stream


def shard_of(partition_key: str) -> int:
    """Which shard carries ``partition_key``, which is what the bus calls a stream."""
    return crc32(partition_key.encode()) % SHARDS


class Immutable(TypeError):
    """Somebody tried to change or delete a stored event."""


class EventQuerySet(models.QuerySet["Event"]):
    """Reads and inserts. Old events leave by ``prune`` alone."""

    def update(self, **kwargs: Any) -> int:
        raise Immutable("Events are append-only: publish another one instead of changing this.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise Immutable("Events are append-only: they leave by retention alone.")

    def prune(self) -> int:
        """Retention's door: delete what the filter holds, with all rows about it. Returns how many events went.

        Only what has a position goes: the sequencer may be numbering the others now.
        """
        chosen = list(self.filter(position__isnull=False).values_list("pk", flat=True))
        gone = 0
        for start in range(0, len(chosen), 500):
            part = chosen[start : start + 500]
            OutboxMessage.objects.filter(event_id__in=part).delete()
            EventTag.objects.filter(event_id__in=part).delete()
            DeadLetter.objects.filter(stored__in=part).delete()
            DeadLetter.objects.filter(replaced_by__in=part).update(replaced_by=None)
            gone += int(models.QuerySet(self.model, using=self.db).filter(pk__in=part)._raw_delete(self.db))
        return gone


class Event(models.Model):
    """One thing that happened (CloudEvents 1.0). Append-only. Source and id together name it (section 3.1.1)."""

    id = models.BigAutoField(primary_key=True)
    """Order of insertion. Concurrent transactions may commit out of it: readers follow ``position``."""
    position = models.BigIntegerField(null=True, editable=False)
    """The place in the log: 1, 2, 3 … without a gap, given to what is committed. Null for the moment before that."""
    event_id = models.CharField(max_length=MAX_TEXT, editable=False)
    """Unique within its source. Ours are UUIDs that sort by time."""
    type = models.CharField(max_length=MAX_TYPE)
    source = models.CharField(max_length=MAX_TEXT)
    subject = models.CharField(max_length=MAX_TEXT, blank=True)
    time = models.DateTimeField()
    datacontenttype = models.CharField(max_length=MAX_TEXT, default="application/json")
    data = models.JSONField()
    extensions = models.JSONField(default=dict, blank=True, db_default=models.Value({}, models.JSONField()))
    """Attributes that are nobody's but the publisher's."""
    schema_version = models.PositiveSmallIntegerField(default=0)
    """Which version of its type's schema ``data`` is written in; 0 when it has none and the publisher named none."""
    dataschema = models.CharField(max_length=MAX_TEXT, blank=True, default="", db_default="")
    """Which schema the publisher names, when it is none of ours."""
    stream = models.CharField(max_length=MAX_STREAM)
    """What keeps its events in order with each other: an aggregate's history, the wire's ``partitionkey``; of others'
    events ``@source/partitionkey``."""
    version = models.BigIntegerField()
    """Counts from 1 within one stream, without gaps: the wire's ``sequence``."""
    numbered = models.BooleanField(default=True, db_default=True)
    """Whether ``version`` was on the wire; what came without a number got the next free one."""
    correlation_id = models.CharField(max_length=MAX_TEXT, blank=True)
    causation_id = models.CharField(max_length=MAX_TEXT, blank=True)
    traceparent = models.CharField(max_length=MAX_TEXT, blank=True)
    addressee = models.CharField(max_length=64, blank=True, default="", db_default="")
    """The one subscription that it is for; empty for all."""

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            # The id first: it is what people ask by.
            models.UniqueConstraint(fields=["event_id", "source"], name="event_once_per_source"),
            models.UniqueConstraint(fields=["stream", "version"], name="event_version_once_per_stream"),
            # Partial, so that PostgreSQL takes giving a position for no change of a key: that would have to wait for
            # everyone who has just referred to the row.
            models.UniqueConstraint(
                fields=["position"], name="event_position_once", condition=models.Q(position__isnull=False)
            ),
        ]
        indexes = [
            models.Index(fields=["id"], name="event_without_position", condition=models.Q(position__isnull=True)),
            models.Index(fields=["type", "position"], name="event_by_type"),
            models.Index(fields=["subject", "position"], name="event_by_subject"),
            models.Index(fields=["source", "position"], name="event_by_source"),
            models.Index(fields=["correlation_id", "position"], name="event_by_correlation"),
            models.Index(
                fields=["causation_id", "position"], name="event_by_cause", condition=~models.Q(causation_id="")
            ),
            models.Index(fields=["time"], name="event_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.subject}".strip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise Immutable("Events are append-only: publish another one instead of changing this.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise Immutable("Events are append-only: they leave by retention alone.")

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any]) -> Event:
        """As Django's own, which goes through ``__init__`` and sets field by field: that takes six times as long. What
        is not among ``field_names`` is deferred."""
        event = cls.__new__(cls)
        event.__dict__.update(zip(field_names, values, strict=True))
        event._state = ModelState()
        event._state.adding, event._state.db = False, db
        return event

    @property
    def foreign(self) -> bool:
        """Whether another published it, and it came from the bus."""
        return self.stream.startswith(FOREIGN)

    @property
    def partition_key(self) -> str:
        """What the wire calls its stream."""
        return wire_key(self.source, self.stream)

    def as_cloudevent(self) -> CloudEvent:
        """The event as the bus carries it."""
        return carried(*_CARRIED_OF(self), self.time.timestamp())


CARRIED = (
    "event_id",
    "type",
    "source",
    "subject",
    "stream",
    "version",
    "numbered",
    "correlation_id",
    "causation_id",
    "traceparent",
    "datacontenttype",
    "schema_version",
    "dataschema",
    "data",
    "extensions",
)
"""The columns of an event that the bus carries, beside its time."""
_CARRIED_OF = attrgetter(*CARRIED)


def carried(
    event_id: str,
    event_type: str,
    source: str,
    subject: str,
    stream: str,
    version: int,
    numbered: bool,
    correlation_id: str,
    causation_id: str,
    traceparent: str,
    datacontenttype: str,
    schema_version: int,
    dataschema: str,
    data: Any,
    extensions: dict[str, Any],
    time: float,
) -> CloudEvent:
    """The event of the columns ``CARRIED``, for whoever reads too many rows to make a model of each."""
    return CloudEvent(
        event_id,
        event_type,
        source,
        time,
        data,
        subject,
        wire_key(source, stream),
        version if numbered else 0,
        correlation_id,
        causation_id,
        traceparent,
        datacontenttype,
        uri(event_type, schema_version) if schema_version else dataschema,
        extensions,
    )


class Stream(models.Model):
    """How far one stream has come. Its row lock puts the stream's publishers in line."""

    name = models.CharField(max_length=MAX_STREAM, primary_key=True)
    version = models.BigIntegerField()
    kept = models.BooleanField(default=False, db_default=False)
    """Whether its events are an aggregate's memory, which retention leaves alone."""
    holes = models.JSONField(default=list, db_default=models.Value([], models.JSONField()))
    """Of a foreign one: numbers that never came, as pairs of the first and the last."""
    missing = models.BigIntegerField(default=0, db_default=0)
    """How many those are."""

    class Meta:
        indexes = [models.Index(fields=["name"], name="stream_with_holes", condition=models.Q(missing__gt=0))]

    def __str__(self) -> str:
        return f"{self.name or 'all'} at {self.version}"


class EventTag(models.Model):
    """One thing that an event is about, such as ``student:7``: what boundaries and queries find it by."""

    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="tags")
    tag = models.CharField(max_length=255)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tag", "event"], name="tag_once_per_event")]

    def __str__(self) -> str:
        return self.tag


class PublishedKey(models.Model):
    """An idempotency key, and the events that were published under it. Kept as long as they are."""

    key = models.CharField(max_length=255, primary_key=True)
    content = models.CharField(max_length=64, help_text="SHA-256 of what was to be published.")
    events = models.JSONField(default=list, help_text="Their ids.")
    time = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.key


class Snapshot(models.Model):
    """An aggregate's state at a version of its stream: a shortcut, which may be deleted at any time."""

    stream = models.CharField(max_length=255, primary_key=True)
    version = models.BigIntegerField()
    shape = models.PositiveSmallIntegerField(help_text="Of the state; another one than the code's is passed over.")
    state = models.JSONField()

    def __str__(self) -> str:
        return f"{self.stream} at {self.version}"


class Build(models.Model):
    """One build of a projection: how far into the log it has come, and whether it is what people see."""

    class Role(models.TextChoices):
        LIVE = "live"
        BUILDING = "building"
        OLD = "old"

    projection = models.CharField(max_length=64)
    generation = models.PositiveIntegerField()
    role = models.CharField(max_length=8, choices=Role)
    position = models.BigIntegerField(default=0)
    """The last position that its rows have in them, written in the same transaction as they."""
    fault = models.CharField(max_length=500, blank=True, help_text="Why it stands still.")
    started_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["projection", "generation"], name="build_generation_once"),
            models.UniqueConstraint(
                fields=["projection", "role"],
                name="build_one_live_one_building",
                condition=models.Q(role__in=["live", "building"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.projection} {self.generation} ({self.role}) at {self.position}"


class BuildRow(models.Model):
    """One row of a build."""

    build = models.ForeignKey(Build, on_delete=models.CASCADE, related_name="rows")
    key = models.CharField(max_length=255)
    state = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["build", "key"], name="build_row_once_per_key")]

    def __str__(self) -> str:
        return self.key


class OutboxMessage(models.Model):
    """What the bus still has to take, or took at ``sent_at``."""

    event = models.OneToOneField(Event, primary_key=True, on_delete=models.CASCADE, related_name="outbox")
    topic = models.CharField(max_length=64, help_text="The event type's domain.")
    shard = models.PositiveSmallIntegerField()
    partition_key = models.CharField(max_length=MAX_EVENT_STREAM)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(
        null=True, blank=True, help_text="Of one that the bus did not take: not before then again."
    )
    sent_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["event_id"]
        indexes = [
            models.Index(fields=["event"], name="outbox_waiting", condition=models.Q(sent_at__isnull=True)),
            models.Index(
                fields=["next_at"],
                name="outbox_put_off",
                condition=models.Q(sent_at__isnull=True, next_at__isnull=False),
            ),
            models.Index(fields=["sent_at"], name="outbox_sent", condition=models.Q(sent_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.topic} {self.event_id} {'sent' if self.sent_at else 'waiting'}"


class OutboxShard(models.Model):
    """A relay's lease on one shard. Free when ``holder`` is empty or ``until`` has passed."""

    shard = models.PositiveSmallIntegerField(primary_key=True)
    holder = models.CharField(max_length=64, blank=True)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.shard} {self.holder or 'free'}"
