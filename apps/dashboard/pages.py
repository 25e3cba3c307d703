"""The pages. Each renders what is known now; its module in static/js keeps it current.

Reads through the rooms' queries; changes nothing (buttons act through the REST API).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard import backlogs, sources, state, words
from apps.dashboard.access import page
from apps.dashboard.events import faults
from apps.dashboard.feed import feed
from apps.dashboard.frames import Document
from apps.dashboard.judge.readings import RANK
from apps.events.routing import queries as routing
from apps.gateway.models import ApiKey, BreakerPolicy, Consumer, RateLimitPolicy, Route
from apps.gateway.revisions import ConfigRevision
from apps.health import queries as health
from apps.lib import roles
from apps.lib.clock import wall
from apps.registry.models import Service
from apps.telemetry import queries as telemetry

OWN = ("control",)
"""The services of a trace that is Mission Control's own: somebody looked at a page."""
TRACES = 100
"""Traces listed at most."""
BARS = 60
"""Stretches of time in a health bar."""


@dataclass(frozen=True, slots=True)
class Range:
    """A span of time that a page can show, by the name it has in the address."""

    name: str
    title: str
    seconds: float


RANGES = (
    Range("15m", "last 15 minutes", 900),
    Range("1h", "last hour", 3600),
    Range("6h", "last 6 hours", 6 * 3600),
    Range("24h", "last 24 hours", 24 * 3600),
)


def chosen(request: HttpRequest, fallback: str = "1h") -> Range:
    """The range in the address; the fallback for none, or for one that does not exist."""
    by_name = {choice.name: choice for choice in RANGES}
    return by_name.get(request.GET.get("range", ""), by_name[fallback])


def current() -> Document:
    """The live feed's state; built here when no feed runs or it has fallen silent."""
    return feed().recent_state() or state.build(sources.read_all(), {}, wall())


def tiles(document: Document) -> list[tuple[str, Document]]:
    """Worst first, else by name; the gateway after services that are no better, since it passes on what they do."""
    services: dict[str, Document] = document["services"]
    return sorted(services.items(), key=lambda item: (RANK[item[1]["state"]], item[0] == "gateway", item[0]))


BLANK: Document = {"title": "", "state": "unknown", "why": "", "instances": {}, "spark": [], "bar": []}


# -- pages --------------------------------------------------------------------------------------


@never_cache
@page
def overview(request: HttpRequest) -> HttpResponse:
    document = current()
    registered = any(name != "gateway" for name in document["services"])
    return render(
        request,
        "overview.html",
        {
            "nav": "overview",
            "state": document,
            "tiles": tiles(document),
            "registered": registered,
            "now": wall(),
            "blank": BLANK,
        },
    )


@never_cache
@page
def services(request: HttpRequest) -> HttpResponse:
    document = current()
    rows = [(name, service) for name, service in tiles(document) if name != "gateway"]
    return render(
        request, "services.html", {"nav": "services", "state": document, "tiles": rows, "registered": bool(rows)}
    )


@never_cache
@page
def service(request: HttpRequest, name: str) -> HttpResponse:
    about = Service.objects.filter(name=name).first()
    document = current()
    live = document["services"].get(name, BLANK)
    if about is None:
        if not live.get("reports"):
            if why := document["sources"]["traffic"].get("stale"):
                detail = f"Nobody registered {name}. Whether it reports telemetry is not known now: {why}."
                return render(request, "message.html", {"title": "Not known", "detail": detail}, status=503)
            raise Http404(f"There is no service {name}.")
        return _reporter(request, name, document)
    now, span = wall(), chosen(request)
    unknown: Document = {"state": "unknown"}
    instances = [
        {
            "pk": instance.pk,
            "name": instance.name,
            "url": instance.url,
            "enabled": instance.enabled,
            "live": live["instances"].get(instance.name, unknown),
        }
        for instance in about.instances.all()
    ]
    check = getattr(about, "health_check", None)
    return render(
        request,
        "service.html",
        {
            "nav": "services",
            "state": document,
            "name": name,
            "about": about,
            "service": live,
            "instances": instances,
            "check": f"{check}, {check.timeout_s:g} s at most" if check else "checked by the defaults",
            "bar": health.history(name, now - span.seconds, now, BARS),
            "bar_s": span.seconds / BARS,
            "transitions": health.transitions(service=name, limit=20),
            "spells": health.breaker_timeline(name, now - 3600, worker="*"),
            "routes": about.routes.select_related("rate_limit").order_by("path", "name"),
            "operations": _operations(name, span),
            "now": now,
            "range": span,
            "ranges": RANGES,
            "may_act": roles.has(request.user, roles.OPERATOR),
        },
    )


def _reporter(request: HttpRequest, name: str, document: Document) -> HttpResponse:
    """A service that nobody registered: what it reports of itself is all there is."""
    span = chosen(request)
    return render(
        request,
        "reporter.html",
        {
            "nav": "services",
            "state": document,
            "name": name,
            "service": document["services"][name],
            "operations": _operations(name, span),
            "range": span,
            "ranges": RANGES,
        },
    )


def _operations(name: str, span: Range) -> list[Any]:
    try:
        return telemetry.red_by_operation(name, span.seconds, 30)
    except telemetry.TelemetryAway:
        return []


@never_cache
@page
def red(request: HttpRequest, name: str) -> HttpResponse:
    """The numbers behind a service's charts, as columns: what the gateway saw, else what the service reports."""
    span = chosen(request).seconds
    step = max(10.0, span / 180)
    until = wall()
    until -= until % step
    try:
        points = _series(name, until - span, until, step)
    except telemetry.TelemetryAway:
        return JsonResponse({"error": "ClickHouse does not answer; the charts come back when it does."}, status=503)
    return JsonResponse(
        {
            "step": step,
            "since": until - span,
            "until": until,
            "at": [point.at for point in points],
            "rate": [round(point.requests / step, 3) for point in points],
            "errors": [round(point.errors / step, 3) for point in points],
            "p50": [point.p50_ms for point in points],
            "p95": [point.p95_ms for point in points],
            "p99": [point.p99_ms for point in points],
        }
    )


def _series(name: str, since: float, until: float, step: float) -> Sequence[telemetry.EdgePoint | telemetry.RedPoint]:
    if name == "gateway" or Service.objects.filter(name=name).exists():
        return telemetry.edge_series(since, until, step, service=None if name == "gateway" else name)
    return telemetry.red_series(name, since, until, step)


@never_cache
@page
def traces(request: HttpRequest) -> HttpResponse:
    span = chosen(request, "15m" if request.GET.get("range") == "15m" else "1h")
    raw = request.GET.get("min_ms", "").strip()
    filters = {
        "service": request.GET.get("service", "").strip()[:200],
        "name": request.GET.get("name", "").strip()[:200],
        "errors": request.GET.get("errors") == "1",
        "min_ms": raw[:20],
    }
    problem, found = "", []
    try:
        least = float(raw) if raw else None
    except ValueError:
        least = math.nan
    if least is not None and not (math.isfinite(least) and least >= 0):
        problem = "“At least” is a number of milliseconds, such as 250."
    else:
        try:
            found = telemetry.recent_traces(
                since=wall() - span.seconds,
                service=filters["service"] or None,
                name=filters["name"] or None,
                errors_only=bool(filters["errors"]),
                min_ms=least,
                limit=TRACES if filters["service"] else 4 * TRACES,
            )
            if not filters["service"]:
                # An open page makes requests of its own; they would crowd out everybody else's.
                found = [one for one in found if one.services != OWN][:TRACES]
        except telemetry.TelemetryAway:
            problem = "ClickHouse does not answer, so no trace can be read. Reload in a moment."
    names = sorted({"gateway", "control", filters["service"], *Service.objects.values_list("name", flat=True)} - {""})
    return render(
        request,
        "traces.html",
        {
            "nav": "traces",
            "traces": found,
            "problem": problem,
            "filters": filters,
            "filtered": any(filters.values()),
            "names": names,
            "range": span,
            "ranges": RANGES,
            "limit": TRACES,
        },
        status=400 if problem and not problem.startswith("Click") else 200,
    )


@never_cache
@page
def plane(request: HttpRequest) -> HttpResponse:
    document = current()
    keys = ApiKey.objects.filter(revoked_at=None).count()
    revisions = [
        {
            "number": revision.number,
            "created_at": revision.created_at,
            "author": revision.author,
            "summary": revision.summary,
        }
        for revision in ConfigRevision.objects.defer("document").order_by("-number")[:15]
    ]
    return render(
        request,
        "gateway.html",
        {
            "nav": "gateway",
            "state": document,
            "service": document["services"]["gateway"],
            "routes": Route.objects.select_related("service", "rate_limit").order_by("path", "name"),
            "limits": RateLimitPolicy.objects.order_by("name"),
            "policies": BreakerPolicy.objects.order_by("name"),
            "consumers": Consumer.objects.count(),
            "keys": words.plural(keys, "live key"),
            "revisions": revisions,
        },
    )


@never_cache
@page
def system(request: HttpRequest) -> HttpResponse:
    document = current()
    try:
        waiting = backlogs.waiting()
    except telemetry.TelemetryAway:
        waiting = None
    return render(
        request,
        "system.html",
        {
            "nav": "system",
            "waiting": waiting,
            "unread": routing.unread(),
            **faults.found(),
            "state": document,
            "processes": [(name, part) for name, part in document["own"].items()],
            "feed_counts": sorted((key.replace("_", " "), count) for key, count in feed().counts().items()),
        },
    )
