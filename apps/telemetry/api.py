"""REST: traces."""

from __future__ import annotations

import re
from typing import Any

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.lib import clock
from apps.telemetry import queries
from apps.telemetry.serializers import TraceFilters, TraceListSerializer, TraceSerializer, TraceWindow
from services.kit.problem import Problem, Refused

HOUR = 3600.0
_ID = re.compile(r"[0-9a-f]{32}\Z")


class TelemetryView(APIView):
    """Reads that say so, as 503 ``telemetry_away``, when ClickHouse doesn't answer."""

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, queries.TelemetryAway):
            exc = Refused(Problem(503, "telemetry_away", f"{exc} Try again shortly.", retry_after=2))
        return super().handle_exception(exc)


class TraceListView(TelemetryView):
    """Recent traces."""

    @extend_schema(
        summary="List recent traces",
        tags=["traces"],
        operation_id="traces_list",
        parameters=[TraceFilters],
        responses=TraceListSerializer,
    )
    def get(self, request: Request) -> Response:
        """Traces that hold a span which passes every filter, newest first."""
        filters = TraceFilters(data=request.query_params)
        filters.is_valid(raise_exception=True)
        wanted: dict[str, Any] = dict(filters.validated_data)
        errors_only = wanted.pop("errors")
        since = wanted.pop("since", None)
        if since is None:
            since = wanted.get("until", clock.wall()) - HOUR
        found = queries.recent_traces(since=since, errors_only=errors_only, **wanted)
        return Response(TraceListSerializer({"results": found}).data)


class TraceView(TelemetryView):
    """One trace."""

    @extend_schema(
        summary="Get one trace with its spans",
        tags=["traces"],
        operation_id="traces_retrieve",
        parameters=[
            OpenApiParameter("trace_id", str, OpenApiParameter.PATH, description="32 hexadecimal digits."),
            TraceWindow,
        ],
        responses=TraceSerializer,
    )
    def get(self, request: Request, trace_id: str) -> Response:
        """The spans come by start; those of the last second or two may still be on their way."""
        wanted = trace_id.lower()
        if not _ID.match(wanted):
            raise Refused(Problem(400, "invalid_trace_id", "A trace id is 32 hexadecimal digits."))
        window = TraceWindow(data=request.query_params)
        window.is_valid(raise_exception=True)
        totals = queries.trace_totals(wanted)
        if totals is None:
            raise Http404("No span of this trace is stored (spans take a second or two to arrive).")
        limit, offset = window.validated_data["limit"], window.validated_data["offset"]
        body = {
            "trace_id": wanted,
            "started_at": totals.started_at,
            "duration_ms": totals.duration_ms,
            "services": totals.services,
            "errors": totals.errors,
            "total": totals.spans,
            "offset": offset,
            "spans": queries.spans_by_time(totals, limit=limit, offset=offset),
        }
        return Response(TraceSerializer(body).data)
