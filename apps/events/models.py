"""The event store and its outbox.

An ``Event`` is written once, in the transaction of the change it tells of, and never touched
again. Its ``OutboxMessage`` says whether the bus has it. Shards give relays something to claim
that keeps each partition key in order: all of a key's events lie in one shard.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from django.db import models

from services.kit.events.cloudevent import MAX_TYPE, CloudEvent

SHARDS = 16
"""How many relays can publish at once, at most. A key's shard never moves while this stands."""


def shard_of(partition_key: str) -> int:
    """Which shard carries ``partition_key``."""
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
        """Retention's door: delete what the filter holds, outbox rows first. Returns how many events went."""
        chosen = list(self.values_list("position", flat=True))
        gone = 0
        for start in range(0, len(chosen), 500):
            part = chosen[start : start + 500]
            OutboxMessage.objects.filter(event_id__in=part).delete()
            gone += int(models.QuerySet(self.model, using=self.db).filter(position__in=part)._raw_delete(self.db))
        return gone


class Event(models.Model):
    """One thing that happened (CloudEvents 1.0). Append-only."""

    position = models.BigAutoField(primary_key=True)
    """Order of arrival. On PostgreSQL two concurrent transactions may commit out of this order."""
    event_id = models.UUIDField(unique=True, editable=False)
    type = models.CharField(max_length=MAX_TYPE)
    source = models.CharField(max_length=255)
    subject = models.CharField(max_length=255, blank=True)
    time = models.DateTimeField()
    datacontenttype = models.CharField(max_length=100, default="application/json")
    data = models.JSONField()
    partition_key = models.CharField(max_length=255)
    sequence = models.BigIntegerField()
    """Counts from 1 within one partition key, without gaps."""
    correlation_id = models.CharField(max_length=64, blank=True)
    causation_id = models.CharField(max_length=64, blank=True)
    traceparent = models.CharField(max_length=64, blank=True)

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["partition_key", "sequence"], name="event_sequence_once_per_key")
        ]
        indexes = [
            models.Index(fields=["type", "position"], name="event_by_type"),
            models.Index(fields=["subject", "position"], name="event_by_subject"),
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

    def as_cloudevent(self) -> CloudEvent:
        """The event as the bus carries it."""
        return CloudEvent(
            id=str(self.event_id),
            type=self.type,
            source=self.source,
            time=self.time.timestamp(),
            data=self.data,
            subject=self.subject,
            partition_key=self.partition_key,
            sequence=self.sequence,
            correlation_id=self.correlation_id,
            causation_id=self.causation_id,
            traceparent=self.traceparent,
            datacontenttype=self.datacontenttype,
        )


class PartitionSequence(models.Model):
    """The last sequence given out for one partition key. Its row lock puts a key's publishers in line."""

    key = models.CharField(max_length=255, primary_key=True)
    last = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.key} at {self.last}"


class OutboxMessage(models.Model):
    """What the bus still has to take, or took at ``sent_at``."""

    event = models.OneToOneField(Event, primary_key=True, on_delete=models.CASCADE, related_name="outbox")
    topic = models.CharField(max_length=64, help_text="The event type's domain.")
    shard = models.PositiveSmallIntegerField()
    partition_key = models.CharField(max_length=255)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["event_id"]
        indexes = [
            models.Index(fields=["event"], name="outbox_waiting", condition=models.Q(sent_at__isnull=True)),
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
