"""What pages and the API read of the registry."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import F

from apps.events.schemas import asyncapi
from apps.events.schemas.models import EventType, SchemaReader, SchemaVersion
from apps.events.subscriptions import queries as subscriptions


def consumers(types: list[str]) -> dict[str, list[str]]:
    """The names of who is known to consume each of ``types``: by a schema of what it needs, or by a subscription."""
    found: dict[str, set[str]] = {type: set(names) for type, names in subscriptions.readers(types).items() if names}
    rows = SchemaReader.objects.filter(event_type__in=types)
    for type, consumer in rows.values_list("event_type", "consumer"):
        found.setdefault(type, set()).add(consumer)
    return {type: sorted(names) for type, names in found.items()}


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
