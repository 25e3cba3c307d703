"""Holds what is published to its type's schema, and tells which version that is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from opentelemetry import metrics

from apps.events.schemas.models import EventType, SchemaVersion
from services.kit.events.cloudevent import EventError
from services.kit.events.schema import Schema, SchemaError, Violation, schema

meter = metrics.get_meter(__name__)
unchecked = meter.create_counter("mc.schemas.unchecked", description="Events published whose type has no schema")
refused = meter.create_counter("mc.schemas.refused", description="Events refused for their schema, by reason")

COMPILED = 256
"""Schemas that a process keeps compiled."""


class NoSchema(EventError):
    """The type has no schema, and its domain is strict."""


class UnknownSchema(EventError):
    """The event names a version of its type's schema that the registry doesn't have."""


REASONS = {Violation: "violation", NoSchema: "no_schema", UnknownSchema: "unknown_schema"}


def check(events: Iterable[tuple[str, int, object]]) -> list[int]:
    """The version that each event keeps to, given as (type, the version that it is written in or 0, data).

    It is held to the version that it names, else to the newest; a type without a schema keeps to what it named.
    Violation, NoSchema or UnknownSchema for the first that can't be published. One query, and none of documents that
    are compiled.
    """
    found = each(events)
    for one in found:
        if isinstance(one, EventError):
            raise one
    return [one for one in found if isinstance(one, int)]


def each(events: Iterable[tuple[str, int, object]]) -> list[int | EventError]:
    """``check`` for events that stand each on its own: what would be raised of one takes its place."""
    events = list(events)
    rows = EventType.objects.filter(name__in={type for type, _, _ in events})
    known = {name: (newest, digest) for name, newest, digest in rows.values_list("name", "newest", "digest")}
    found = [_judged(type, said, data, known.get(type)) for type, said, data in events]
    free = sum(one.__class__ is int and type not in known for one, (type, _, _) in zip(found, events, strict=True))
    if free:
        unchecked.add(free)
    return found


def _judged(type: str, version: int, data: object, newest: tuple[int, str] | None) -> int | EventError:
    try:
        return _one(type, version, data, newest)
    except (Violation, NoSchema, UnknownSchema) as error:
        refused.add(1, {"reason": REASONS[error.__class__]})
        return error


def _one(type: str, version: int, data: object, newest: tuple[int, str] | None) -> int:
    if newest is None:
        if type.partition(".")[0] in settings.STRICT_DOMAINS:
            raise NoSchema(f"Events of {type} have no schema, and its domain is strict: register one first.")
        return version
    version = version or newest[0]
    compiled(type, version, newest[1] if version == newest[0] else _digest(type, version)).check(data)
    return version


def _digest(type: str, version: int) -> str:
    row = SchemaVersion.objects.filter(event_type__name=type, version=version).only("digest").first()
    if row is None:
        raise UnknownSchema(f"{type} has no version {version}.")
    return row.digest


@lru_cache(maxsize=COMPILED)
def compiled(type: str, version: int, digest: str) -> Schema:
    """The version, ready to check events. It is asked for by its digest too, so that no answer can be another's."""
    row = SchemaVersion.objects.only("document").get(event_type__name=type, version=version, digest=digest)
    try:
        return schema(type, version, row.document)
    except SchemaError as error:
        # What was taken once is not taken any more: by a release with other bounds.
        raise UnknownSchema(f"Version {version} of {type} can't be used any more: {error}") from None
