"""The route tester: paste an event, and read where it would go, who would get it, and what its schema has against it.

Nothing is published, and nothing is sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import document, lineage
from apps.dashboard.events.links import OURS
from apps.events.models import Event, EventType, SchemaReader, SchemaVersion
from apps.events.routing import queries as routing
from apps.events.schemas.checking import UnknownSchema, compiled
from apps.events.subscriptions.condition import ConditionError
from apps.events.subscriptions.follower import wanted_by
from apps.events.subscriptions.matching import Match, match
from apps.events.subscriptions.models import Subscription
from services.kit.events.cloudevent import CloudEvent, EventError, decode, encode
from services.kit.events.schema import Fault, Violation, named

LARGEST = 1_100_000
"""Bytes of text that are read."""
VERSIONS = 20
MOST = 100
"""Subscriptions that are listed with their answers: those that would get the event come first."""
SAMPLE = {"type": "business.order.placed", "source": "shop", "data": {"order": 1}}
FILLED = {"specversion": "1.0", "id": "test", "source": "tester", "time": "2030-01-01T00:00:00Z"}
"""What an event must have and a test need not say."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one version of the type's schema says to the event."""

    version: int
    named: bool
    faults: tuple[Fault, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """One subscription and whether it would get the event."""

    row: Subscription
    found: Match


@never_cache
@page
def tester(request: HttpRequest) -> HttpResponse:
    text, addressee = _text(request)
    context: dict[str, Any] = {"nav": "events", "section": "tester", "text": text}
    if text is not None:
        try:
            event, filled = read(text)
        except EventError as error:
            context["problem"] = str(error)
        else:
            held = schemas(event)
            registered = EventType.objects.filter(name=event.type).first()
            telling = next((one for one in held if one.named), held[0] if held else None)
            context |= {
                "event": event,
                "filled": filled,
                "going": routing.explain(event),
                "held": held,
                "lines": document.lines(event.data, telling.faults if telling else ()),
                "mode": registered.mode.replace("_", " ") if registered else "",
                "readers": list(SchemaReader.objects.filter(event_type=event.type).order_by("consumer")),
                "asked": (found := subscriptions(event, addressee))[:MOST],
                "takers": sum(one.found.matched for one in found),
                "others": len(found) - len(found[:MOST]),
            }
    context["text"] = text if text is not None else json.dumps(SAMPLE, indent=2)
    return render(request, "events/tester.html", context, status=400 if "problem" in context else 200)


def _text(request: HttpRequest) -> tuple[str | None, str]:
    """What was pasted, or the event of the log that the address names; None for neither. And its addressee."""
    if request.method == "POST":
        return request.POST.get("event", ""), ""
    if event_id := request.GET.get("event", ""):
        source = request.GET.get("source", OURS)
        one = next((one for one in lineage.all_by_id(event_id) if one.source == source), None)
        if one is not None:
            return _pretty(one), one.addressee
    return None, ""


def _pretty(event: Event) -> str:
    return json.dumps(json.loads(encode(event.as_cloudevent())), ensure_ascii=False, indent=2)


def read(text: str) -> tuple[CloudEvent, list[str]]:
    """The event, and the names of the attributes that were made up; EventError for what can be none."""
    if len(text) > LARGEST:
        raise EventError(f"The event is larger than the {LARGEST:,} characters that are read here.")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return decode(text), []
    filled = [name for name in FILLED if name not in body]
    whole = {name: FILLED[name] for name in filled} | body
    return decode(json.dumps(whole)), filled


def schemas(event: CloudEvent) -> list[Held]:
    """What each version of the type's schema says to it, the newest first."""
    found = []
    wanted = named(event.dataschema)
    rows = SchemaVersion.objects.filter(event_type__name=event.type).order_by("-version")[:VERSIONS]
    for row in rows:
        is_named = wanted == (event.type, row.version)
        try:
            compiled(event.type, row.version, row.digest).check(event.data)
        except Violation as violation:
            found.append(Held(row.version, is_named, tuple(violation.faults)))
        except UnknownSchema as error:
            found.append(Held(row.version, is_named, problem=str(error)))
        else:
            found.append(Held(row.version, is_named))
    return found


def subscriptions(event: CloudEvent, addressee: str = "") -> Sequence[Asked]:
    """Every subscription with its answer: those that would get it first."""
    found = []
    for row in Subscription.objects.order_by("name").iterator():
        try:
            answer = match(wanted_by(row), event, addressee)
        except ConditionError as error:
            answer = Match(False, f"its filter is no longer understood: {error}", odd=True)
        found.append(Asked(row, answer))
    return sorted(found, key=lambda one: (not one.found.matched, not one.found.odd))
