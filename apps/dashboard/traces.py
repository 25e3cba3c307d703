"""One trace's page: what the whole amounts to, and a window over its spans.

A trace that is too large to draw at once is shown by its telling spans (roots, failures, the slowest), and can
be paged through by time. Its status and figures are always those of the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard import waterfall
from apps.dashboard.access import page
from apps.telemetry import queries as telemetry

TRACE_ID = re.compile(r"^[0-9a-f]{32}$")
SPANS = 2000
"""Spans drawn at once."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which spans of a trace are shown: ``first`` to ``last`` by start, counted from 1, or the telling ones (0)."""

    first: int
    last: int
    total: int
    step: int = SPANS

    @classmethod
    def chosen(cls, request: HttpRequest, total: int, step: int = SPANS) -> Window:
        """The window in the address (``?from=2001``); the whole when it fits, else the telling spans."""
        given = request.GET.get("from", "")
        if total <= step:
            return cls(1, total, total, step)
        if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= total):
            return cls(0, 0, total, step)
        first = int(given)
        return cls(first, min(total, first + step - 1), total, step)

    @property
    def telling(self) -> bool:
        return self.first == 0

    @property
    def partial(self) -> bool:
        return self.total > self.step

    @property
    def before(self) -> int | None:
        """Where the window before this one begins."""
        return max(1, self.first - self.step) if self.first > 1 else None

    @property
    def after(self) -> int | None:
        """Where the window after this one begins."""
        return self.last + 1 if 0 < self.last < self.total else None


@never_cache
@page
def trace(request: HttpRequest, trace_id: str) -> HttpResponse:
    if not TRACE_ID.match(trace_id):
        raise Http404("A trace id is 32 hexadecimal digits.")
    context: dict[str, Any] = {"nav": "traces", "trace_id": trace_id}
    try:
        totals = telemetry.trace_totals(trace_id)
        window = Window.chosen(request, totals.spans if totals else 0)
        spans = _read(totals, window) if totals else []
    except telemetry.TelemetryAway:
        context |= {"problem": "ClickHouse does not answer.", "advice": "Reload in a moment."}
        return render(request, "trace.html", context, status=503)
    if totals is None or not spans:
        context |= {
            "problem": "No span of this trace is stored.",
            "advice": "Spans arrive a second or two after the request; older ones go when their retention ends.",
        }
        return render(request, "trace.html", context, status=404)
    drawn = waterfall.draw(spans, start=totals.started_at, end=totals.started_at + totals.duration_ms / 1000)
    root = next(span for span in spans if span.span_id == drawn.rows[0].span_id)
    context |= {
        "name": totals.name or root.name,
        "totals": totals,
        "window": window,
        "spans": drawn.rows,
        "services": drawn.services,
        "ticks": drawn.ticks,
        "failed_here": sum(row.failed for row in drawn.rows),
        "details": {span.span_id: _detail(span, drawn.started_at) for span in spans},
    }
    return render(request, "trace.html", context)


def _read(totals: telemetry.TraceTotals, window: Window) -> list[telemetry.SpanRow]:
    if window.telling:
        return telemetry.telling_spans(totals, limit=window.step)
    return telemetry.spans_by_time(totals, limit=window.step, offset=window.first - 1)


def _detail(span: telemetry.SpanRow, started_at: float) -> dict[str, Any]:
    return {
        "name": span.name,
        "service": span.service,
        "kind": span.kind,
        "status": span.status,
        "message": span.status_message,
        "offset_ms": round((span.started_at - started_at) * 1000, 3),
        "duration_ms": span.duration_ms,
        "attributes": span.attributes,
        "resource": span.resource,
        "events": span.events,
    }
