"""The registry's rows: types of events, the versions of their schemas, and who needs what of them."""

from __future__ import annotations

from typing import Any

from django.db import models

from apps.events.schemas.compat import Mode
from services.kit.events.cloudevent import MAX_TYPE
from services.kit.events.schema import uri


class EventType(models.Model):
    """A type of event that has a schema. ``newest`` and ``digest`` are those of its newest version."""

    name = models.CharField(max_length=MAX_TYPE, unique=True)
    mode = models.CharField(
        max_length=24,
        choices=[(mode.value, mode.value.replace("_", " ")) for mode in Mode],
        default=Mode.FULL_TRANSITIVE.value,
        help_text="What a new version must keep to.",
    )
    producers = models.JSONField(default=list, blank=True, help_text="Names of the services that publish it.")
    newest = models.PositiveIntegerField(default=0, editable=False)
    digest = models.CharField(max_length=64, blank=True, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "event type"

    def __str__(self) -> str:
        return self.name


class SchemaVersion(models.Model):
    """One version of a type's schema. It never changes: events name it for as long as they are kept."""

    event_type = models.ForeignKey(EventType, on_delete=models.PROTECT, related_name="versions")
    version = models.PositiveIntegerField()
    document = models.JSONField()
    digest = models.CharField(max_length=64, help_text="SHA-256 of what the document says.")
    author = models.CharField(max_length=150)
    reason = models.CharField(max_length=300, blank=True)
    forced = models.BooleanField(default=False, help_text="Somebody let it pass although it may break readers.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["event_type", "-version"]
        constraints = [models.UniqueConstraint(fields=["event_type", "version"], name="schema_version_once_per_type")]

    def __str__(self) -> str:
        return f"{self.event_type} {self.version}"

    @property
    def uri(self) -> str:
        """What an event's ``dataschema`` says of it."""
        return uri(self.event_type.name, self.version)


class SchemaReader(models.Model):
    """What one consumer needs of a type's events, as a file of its own says."""

    event_type = models.CharField(max_length=MAX_TYPE)
    consumer = models.CharField(max_length=64)
    needs: Any = models.JSONField()

    class Meta:
        ordering = ["event_type", "consumer"]
        constraints = [models.UniqueConstraint(fields=["event_type", "consumer"], name="schema_reader_once_per_type")]

    def __str__(self) -> str:
        return f"{self.consumer} reads {self.event_type}"
