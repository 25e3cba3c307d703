"""What becomes of an event, and why: for whoever tests the rules before an event meets them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count

from apps.events.models import Event
from apps.events.queries import head
from apps.events.routing import actions
from apps.events.routing.models import RoutingRevision
from apps.events.schemas.models import SchemaVersion
from apps.events.subscriptions.models import Subscription
from services.kit.events import patterns, routing
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.schema import uri

LATELY = 10_000
"""Positions of the log that are looked at for types that nobody reads."""
MAX_UNREAD = 50
OURS = "control"
"""The domain in which the bus speaks of itself."""
ARCHIVE = "archive"
"""The group that brings events into the log reads all of them, and does nothing else with them."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A type that no subscription asks for."""

    type: str
    events: int
    """Of the newest in the log."""


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


def unread() -> list[Unread]:
    """Types among the newest events that go somewhere where nobody reads them, the most frequent first.

    Whoever consumes says so on the bus; a consumer outside of that, on a broker alone, is not known here.
    """
    lately = Event.objects.filter(position__gt=head() - LATELY).order_by()
    counted = lately.values_list("type").annotate(count=Count("pk")).order_by("-count")[:1000]
    taken = Subscription.objects.exclude(name=ARCHIVE).exclude(state=Subscription.State.DISABLED)
    wanted = {one for row in taken.values_list("patterns", flat=True)[:1000] for one in _patterns(row)}
    found = [
        Unread(name, count)
        for name, count in counted
        if name.partition(".")[0] != OURS and not any(patterns.matches(one, name) for one in wanted)
    ]
    return found[:MAX_UNREAD]


def _patterns(said: object) -> Iterable[str]:
    """What a row asks for; one that is no pattern asks for nothing."""
    for one in said if isinstance(said, list) else ():
        try:
            patterns.segments(one)
        except (patterns.PatternError, AttributeError, TypeError):
            continue
        yield one
