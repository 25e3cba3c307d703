"""What becomes of an event, and why: for whoever tests the rules before an event meets them."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from apps.events.routing import actions
from apps.events.routing.models import RoutingRevision
from apps.events.schemas.models import SchemaVersion
from services.kit.events import routing
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.schema import uri


@dataclass(frozen=True, slots=True)
class Going:
    """One place that the event goes to."""

    broker: str
    topic: str
    key: str
    """The value that chooses its partition."""
    rule: str
    """By which rule; empty when none matched."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of the type's schema."""

    version: int
    dataschema: str
    named: bool
    """Whether the event itself names it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that follows from the event's type."""

    revision: int
    """Of the rules."""
    targets: list[Going]
    rules: list[routing.Reason]
    """In their order: all that match, and some of those that do not."""
    schemas: list[Schema]


def newest() -> routing.Document:
    """The rules as they were published last."""
    revision = RoutingRevision.objects.first()
    return routing.NOTHING if revision is None else actions.read(revision)


def explain(event: CloudEvent) -> Explanation:
    """Where the event would go by the published rules, what each rule says to it, and which schemas it has."""
    routes = routing.Routes(newest(), settings.BUS_DEFAULT)
    targets = [
        Going(one.lane.broker, one.lane.topic, routing.partition_key(event, one.key), one.rule)
        for one in routes.targets(event.type)
    ]
    versions = SchemaVersion.objects.filter(event_type__name=event.type).order_by("-version")
    schemas = [
        Schema(number, uri(event.type, number), event.dataschema == uri(event.type, number))
        for number in versions.values_list("version", flat=True)[:50]
    ]
    return Explanation(routes.document.revision, targets, routes.explain(event.type), schemas)
