"""What pages and the API read of the registry."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import F

from apps.events.schemas import asyncapi
from apps.events.schemas.models import EventType, SchemaReader, SchemaVersion


def consumers(types: list[str]) -> dict[str, list[str]]:
    """The names of who is known to consume each of ``types``."""
    found: dict[str, list[str]] = {}
    rows = SchemaReader.objects.filter(event_type__in=types).order_by("consumer")
    for type, consumer in rows.values_list("event_type", "consumer"):
        found.setdefault(type, []).append(consumer)
    return found


def catalogue() -> dict[str, Any]:
    """The AsyncAPI document of what is registered now."""
    newest = SchemaVersion.objects.filter(version=F("event_type__newest")).select_related("event_type")
    rows = list(newest.order_by("event_type__name")[: asyncapi.MOST_TYPES])
    known = consumers([row.event_type.name for row in rows])
    left_out = EventType.objects.count() - len(rows)
    listed = [
        asyncapi.Listed(
            row.event_type.name,
            row.version,
            row.document,
            tuple(row.event_type.producers),
            tuple(known.get(row.event_type.name, ())),
        )
        for row in rows
    ]
    return asyncapi.document(listed, version=settings.VERSION, left_out=left_out)
