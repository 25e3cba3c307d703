"""The log's pages: the list of events, one event, one stream."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import browse, deliveries, document, hops, lineage, replays, states
from apps.dashboard.events.links import OURS, event_url
from apps.dashboard.pages import current
from apps.events.models import Event, EventType, OutboxMessage, SchemaVersion
from apps.events.queries import history
from apps.events.schemas.checking import UnknownSchema, compiled
from apps.telemetry import queries as telemetry
from services.kit.events.schema import Fault, Violation

VERSIONS = 50
"""Events of a stream listed at once."""
LONGEST_NUMBER = 18


@never_cache
@page
def events(request: HttpRequest) -> HttpResponse:
    wanted = browse.asked(request)
    found = browse.page(request, wanted)
    words = wanted.words
    context = {
        "nav": "events",
        "section": "stream",
        "state": current(),
        "asked": wanted,
        "found": found,
        "query": urlencode(words),
        "api_query": urlencode(wanted.filters),
        "more": any(
            name in wanted.filters for name in ("source", "subject", "stream", "tag", "correlation_id", "until")
        ),
        "ranges": RANGES,
        "empty_log": not words and not found.head,
        "searched": browse.SEARCHED,
    }
    context |= replays.offer(request, **_replayable(wanted))
    return render(request, "events/stream.html", context, status=400 if found.problem else 200)


def _replayable(wanted: browse.Asked) -> dict[str, Any]:
    """As much of the list's filters as a replay has too."""
    filters = wanted.filters
    return {"types": [filters["type"]] if "type" in filters else [], "stream": filters.get("stream", "")}


RANGES = (
    ("", "all of the log"),
    ("15m", "last 15 minutes"),
    ("1h", "last hour"),
    ("6h", "last 6 hours"),
    ("24h", "last 24 hours"),
)


@never_cache
@page
def rows(request: HttpRequest) -> HttpResponse:
    """What has come since ``?after=``, as rows of the list; the headers say how far that is."""
    after = request.GET.get("after", "")
    if not _is_number(after):
        return HttpResponse("after= is a position of the log.", status=400, content_type="text/plain")
    found = browse.tail(browse.asked(request), int(after))
    answer = render(request, "events/rows.html", {"events": found.events}, status=400 if found.problem else 200)
    answer["X-Position"] = str(found.head)
    answer["X-Skipped"] = str(found.skipped)
    return answer


@never_cache
@page
def event(request: HttpRequest, event_id: str = "") -> HttpResponse:
    event_id = event_id or request.GET.get("id", "")
    source = request.GET.get("source", "")
    found = _events(event_id, source)
    if not found:
        raise Http404("There is no such event, or it is past its retention.")
    if len(found) > 1:
        context = {"nav": "events", "section": "stream", "event_id": event_id, "events": found}
        return render(request, "events/which.html", context, status=300)
    one = found[0]
    spans, blind = _handled(one)
    faults, schema, said = schema_of(one)
    publisher = "" if one.source == OURS else one.source
    row = OutboxMessage.objects.filter(pk=one.pk).first()
    sending = (
        hops.Sending(row.topic, row.sent_at.timestamp() if row.sent_at else None, row.attempts, row.last_error)
        if row
        else None
    )
    return render(
        request,
        "events/event.html",
        {
            "nav": "events",
            "section": "stream",
            "event": one,
            "id": str(one.event_id),
            "trace_id": trace_of(one),
            "lines": document.lines(one.data, faults),
            "faults": faults,
            "schema": schema,
            "schema_said": said,
            "schema_lines": document.lines(schema) if schema is not None else [],
            "tree": lineage.read(one),
            "hops": hops.hops(one.time.timestamp(), one.position, sending, spans, one.addressee, publisher),
            "blind": blind,
            "deliveries": (found_deliveries := deliveries.of(one)),
            "delivered": deliveries.in_short(found_deliveries),
            "attempts": deliveries.attempts(one),
            "tags": list(one.tags.values_list("tag", flat=True)),
            "again": event_url(one),
        },
    )


def _events(event_id: str, source: str) -> list[Event]:
    found = lineage.all_by_id(event_id)
    return [one for one in found if not source or one.source == source]


def trace_of(event: Event) -> str:
    """The trace that the event was published in; empty when it names none."""
    parts = event.traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else ""


def _handled(event: Event) -> tuple[list[telemetry.SpanRow], str]:
    """The spans in which it was handled, and why they can't be known."""
    trace_id = trace_of(event)
    if not trace_id:
        return [], "The event names no trace, so who handled it can't be told from spans."
    try:
        return hops.handling(telemetry.trace(trace_id), str(event.event_id)), ""
    except telemetry.TelemetryAway:
        return [], "ClickHouse does not answer, so who handled it is not known now."


def schema_of(event: Event) -> tuple[tuple[Fault, ...], Any, str]:
    """What the event's schema has against it, the schema, and in words which one it is, or why there is none."""
    row = EventType.objects.filter(name=event.type).first()
    if row is None:
        return (), None, "No schema is registered for this type: its payload is taken as it is."
    version = event.schema_version or row.newest
    held = SchemaVersion.objects.filter(event_type=row, version=version).first()
    if held is None:
        return (), None, f"It names version {version} of its type's schema, which is not registered."
    said = f"version {version}" + ("" if event.schema_version else ", the newest: the event names none")
    try:
        compiled(event.type, version, held.digest).check(event.data)
    except Violation as violation:
        return tuple(violation.faults), held.document, said
    except UnknownSchema as error:
        return (), held.document, str(error)
    return (), held.document, said


@never_cache
@page
def stream(request: HttpRequest, name: str) -> HttpResponse:
    newest = Event.objects.filter(stream=name).order_by("-version").first()
    if newest is None:
        raise Http404("There is no event in this stream, or all are past their retention.")
    said = request.GET.get("version", "")
    chosen = Event.objects.filter(stream=name, version=int(said)).first() if _is_number(said) else newest
    if chosen is None:
        raise Http404(f"The stream has no version {said}, or it is past its retention.")
    against = request.GET.get("against", "")
    base = (
        Event.objects.filter(stream=name, version=int(against)).first()
        if _is_number(against)
        else history(name, until=chosen.version - 1).last()
    )
    upto = request.GET.get("upto", "")
    listed = history(name, until=int(upto)) if _is_number(upto) else history(name)
    page_rows = list(listed.reverse()[: VERSIONS + 1])
    now, before = states.at(chosen), states.at(base) if base is not None else None
    comparable = before is not None and now.kind == before.kind
    return render(
        request,
        "events/history.html",
        {
            "nav": "events",
            "section": "stream",
            "name": name,
            "newest": newest,
            "chosen": chosen,
            "base": base,
            "now": now,
            "lines": document.lines(now.value),
            "changes": document.diff(before.value, now.value) if before is not None and comparable else [],
            "comparable": comparable,
            "events": page_rows[:VERSIONS],
            "upto": upto if _is_number(upto) else "",
            "older": page_rows[VERSIONS].version if len(page_rows) > VERSIONS else None,
            "path": f"/events/streams/{quote(name, safe='')}/",
            **replays.offer(request, stream=name, types=sorted({one.type for one in page_rows})),
        },
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER
