"""The catalogue: every type of event, and one type with its schemas, makers, takers and an example."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import document, kinds, replays
from apps.events.models import EventType, SchemaReader
from apps.events.schemas.queries import consumers
from apps.lib import roles

EXAMPLES = 5
TYPES = 100
"""Types on one page of the list."""


@never_cache
@page
def catalogue(request: HttpRequest) -> HttpResponse:
    found, rates = kinds.kinds()
    words = request.GET.get("q", "").strip()[:128].lower()
    after = request.GET.get("after", "")
    matching = [kind for kind in found if words in " ".join((kind.name, *kind.producers, *kind.consumers)).lower()]
    rest = [kind for kind in matching if kind.name > after]
    shown = rest[:TYPES]
    return render(
        request,
        "events/catalogue.html",
        {
            "nav": "events",
            "section": "catalogue",
            "kinds": [(kind, kinds.newest(kind.name).values_list("time", flat=True).first()) for kind in shown],
            "matching": len(matching),
            "after": after,
            "more": shown[-1].name if len(rest) > TYPES else "",
            "total": len(found),
            "q": words,
            "seconds": rates.seconds,
            "unschemed": sum(1 for kind in found if not kind.version),
        },
    )


@never_cache
@page
def kind(request: HttpRequest, name: str) -> HttpResponse:
    row = EventType.objects.filter(name=name).first()
    examples = list(kinds.newest(name)[:EXAMPLES])
    readers = list(SchemaReader.objects.filter(event_type=name).order_by("consumer"))
    if row is None and not examples and not readers:
        raise Http404(f"No event of type {name} is kept, and it has no schema.")
    versions = list(row.versions.order_by("-version")) if row else []
    said = request.GET.get("version", "")
    chosen = next((one for one in versions if str(one.version) == said), versions[0] if versions else None)
    before = next((one for one in versions if chosen is not None and one.version == chosen.version - 1), None)
    rates = kinds.rates()
    return render(
        request,
        "events/kind.html",
        {
            "nav": "events",
            "section": "catalogue",
            "name": name,
            "row": row,
            "mode": row.mode.replace("_", " ") if row else "",
            "versions": versions,
            "chosen": chosen,
            "before": before,
            "schema_lines": document.lines(chosen.document) if chosen else [],
            "changes": document.diff(before.document, chosen.document) if chosen and before else [],
            "consumers": consumers([name]).get(name, []),
            "readers": [(one, document.lines(one.needs)) for one in readers],
            "examples": examples,
            "example_lines": document.lines(examples[0].data) if examples else [],
            "rate": rates.of(name),
            "seconds": rates.seconds,
            "makers": sorted(
                {*(row.producers if row else ()), *(source for source, type in rates.by_source if type == name)}
            ),
            "may_change": roles.has(request.user, roles.ADMIN),
            **replays.offer(request, types=[name]),
        },
    )
