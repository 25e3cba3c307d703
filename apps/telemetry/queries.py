"""What pages and REST ask of telemetry: RED figures from the rollups, traces from the spans.

Times are wall-clock seconds, durations milliseconds. Every function raises ``TelemetryAway`` when
ClickHouse can't answer within two seconds. Quantiles are exact to 4.9% (apps.telemetry.quantiles).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from apps.lib import clock
from apps.telemetry.client import TelemetryAway, rows
from apps.telemetry.quantiles import quantiles

__all__ = [
    "OperationRed",
    "Red",
    "RedPoint",
    "SpanRow",
    "TelemetryAway",
    "TraceSummary",
    "recent_traces",
    "red_by_operation",
    "red_by_service",
    "red_series",
    "sparks",
    "trace",
]

GRAIN = 10
"""Seconds: the finest step of the rollups."""
MOST_SPANS = 20_000
"""Of one trace that are read."""
MOST_POINTS = 2_000
"""Of one series."""


@dataclass(frozen=True, slots=True)
class Red:
    """Rate, errors and duration of the requests that one service served."""

    service: str
    requests: int
    errors: int
    window_s: float
    """Seconds that the figures cover: the window asked for, begun at a whole ten seconds."""
    rate: float
    """Requests per second."""
    error_rate: float
    """0..1; 0 when there were no requests."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class OperationRed:
    """The same for one operation (span name) of a service."""

    name: str
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class RedPoint:
    """One step of a series that begins ``at``."""

    at: float
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """One line of a list of traces."""

    trace_id: str
    name: str
    """Of the root span, else of the earliest."""
    service: str
    started_at: float
    duration_ms: float
    """From the first span's start to the last one's end."""
    spans: int
    errors: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpanRow:
    """One span."""

    trace_id: str
    span_id: str
    parent_span_id: str
    """Empty for a root."""
    name: str
    service: str
    kind: str
    """Server, Client, Internal, Producer, Consumer or Unspecified."""
    started_at: float
    duration_ms: float
    status: str
    """Unset, Ok or Error."""
    status_message: str
    attributes: dict[str, str]
    resource: dict[str, str]
    events: list[dict[str, Any]] = field(default_factory=list)
    """{"at", "name", "attributes"} each."""


def red_by_service(window_s: float = 60.0) -> dict[str, Red]:
    """Every service that served a request in the last ``window_s`` seconds (server spans)."""
    now = clock.wall()
    since = _floor(now - window_s, GRAIN)
    found = rows(
        """
        SELECT ServiceName, IsError, Bucket, sum(Count)
        FROM otel_red_10s
        WHERE Time >= toDateTime({since:UInt32}) AND SpanKind = 'Server'
        GROUP BY ServiceName, IsError, Bucket
        """,
        {"since": since},
    )
    grouped: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for service, is_error, bucket, count in found:
        grouped[service].append((is_error, bucket, count))
    window = max(1.0, now - since)
    return {service: _red(service, cells, window) for service, cells in sorted(grouped.items())}


def red_by_operation(service: str, window_s: float = 3600.0, limit: int = 100) -> list[OperationRed]:
    """What ``service`` served by operation, busiest first (server and consumer spans, by whole minutes)."""
    found = rows(
        """
        SELECT SpanName, sum(Total), sum(Errors), groupArray((Bucket, Total))
        FROM
        (
            SELECT SpanName, Bucket, sum(Count) AS Total, sumIf(Count, IsError = 1) AS Errors
            FROM otel_red_1m
            WHERE ServiceName = {service:String} AND SpanKind IN ('Server', 'Consumer')
                AND Time >= toDateTime({since:UInt32})
            GROUP BY SpanName, Bucket
        )
        GROUP BY SpanName
        ORDER BY sum(Total) DESC, SpanName
        LIMIT {limit:UInt32}
        """,
        {"service": service, "since": _floor(clock.wall() - window_s, 60), "limit": limit},
    )
    return [OperationRed(name, total, errors, *quantiles(cells)) for name, total, errors, cells in found]


def red_series(service: str, since: float, until: float, step_s: float) -> list[RedPoint]:
    """What ``service`` served, step by step; a step without requests is a point with none."""
    first, count, step = _steps(since, until, step_s)
    found = rows(
        """
        SELECT intDiv(toUnixTimestamp(Time) - {first:UInt32}, {step:UInt32}) AS Step, IsError, Bucket, sum(Count)
        FROM otel_red_10s
        WHERE Time >= toDateTime({first:UInt32}) AND Time < toDateTime({last:UInt32})
            AND ServiceName = {service:String} AND SpanKind = 'Server'
        GROUP BY Step, IsError, Bucket
        """,
        {"first": first, "last": first + count * step, "step": step, "service": service},
    )
    cells: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for index, is_error, bucket, total in found:
        cells[index].append((is_error, bucket, total))
    points = []
    for index in range(count):
        here = cells.get(index, [])
        errors = sum(total for is_error, _, total in here if is_error)
        tails = quantiles((bucket, total) for _, bucket, total in here)
        points.append(RedPoint(float(first + index * step), sum(total for _, _, total in here), errors, *tails))
    return points


def sparks(since: float, until: float, step_s: float) -> dict[str, list[float]]:
    """Requests per second of every service, step by step from ``since``."""
    first, count, step = _steps(since, until, step_s)
    found = rows(
        """
        SELECT ServiceName, intDiv(toUnixTimestamp(Time) - {first:UInt32}, {step:UInt32}) AS Step, sum(Count)
        FROM otel_red_10s
        WHERE Time >= toDateTime({first:UInt32}) AND Time < toDateTime({last:UInt32}) AND SpanKind = 'Server'
        GROUP BY ServiceName, Step
        """,
        {"first": first, "last": first + count * step, "step": step},
    )
    lines: dict[str, list[float]] = {}
    for service, index, total in sorted(found):
        lines.setdefault(service, [0.0] * count)[index] = total / step
    return lines


def recent_traces(
    *,
    since: float,
    until: float | None = None,
    service: str | None = None,
    name: str | None = None,
    errors_only: bool = False,
    min_ms: float | None = None,
    limit: int = 50,
) -> list[TraceSummary]:
    """Traces with a span that passes every filter, newest first. ``name`` matches any part, in any case."""
    now = clock.wall()
    where = [
        "Timestamp >= fromUnixTimestamp64Nano({since:Int64})",
        "Timestamp <= fromUnixTimestamp64Nano({until:Int64})",
    ]
    # A span of an hour ago may belong to a trace that is still going on; one ahead of our clock is shown too.
    parameters: dict[str, Any] = {
        "since": int(since * 1e9),
        "until": int((until if until is not None else now + 3600) * 1e9),
        "limit": limit,
    }
    if service:
        where.append("ServiceName = {service:String}")
        parameters["service"] = service
    if name:
        where.append("positionCaseInsensitiveUTF8(SpanName, {name:String}) > 0")
        parameters["name"] = name
    if errors_only:
        where.append("StatusCode = 'Error'")
    if min_ms is not None:
        where.append("Duration >= {shortest:UInt64}")
        parameters["shortest"] = int(min_ms * 1e6)
    found = rows(
        f"""
        SELECT TraceId
        FROM otel_traces
        WHERE {" AND ".join(where)}
        ORDER BY toDateTime(Timestamp) DESC
        LIMIT 1 BY TraceId
        LIMIT {{limit:UInt32}}
        """,  # noqa: S608 (the clauses are the constants above; values travel as parameters)
        parameters,
    )
    return _summaries([row[0] for row in found])


def trace(trace_id: str) -> list[SpanRow]:
    """The spans of one trace by start; empty when it is unknown."""
    extent = rows(
        """
        SELECT toUnixTimestamp64Nano(min(Start)), toUnixTimestamp64Nano(max(End))
        FROM otel_traces_trace_id_ts
        WHERE TraceId = {id:String}
        GROUP BY TraceId
        """,
        {"id": trace_id},
    )
    if not extent:
        return []
    start, end = extent[0]
    found = rows(
        """
        SELECT
            SpanId, ParentSpanId, SpanName, ServiceName, SpanKind, toUnixTimestamp64Nano(Timestamp), Duration,
            StatusCode, StatusMessage, SpanAttributes, ResourceAttributes,
            arrayMap(at -> toUnixTimestamp64Nano(at), Events.Timestamp), Events.Name, Events.Attributes
        FROM otel_traces
        WHERE TraceId = {id:String}
            AND Timestamp >= fromUnixTimestamp64Nano({start:Int64})
            AND Timestamp <= fromUnixTimestamp64Nano({end:Int64})
        ORDER BY Timestamp, SpanId
        LIMIT {limit:UInt32}
        """,
        {"id": trace_id, "start": start, "end": end, "limit": MOST_SPANS},
    )
    return [_span(trace_id, row) for row in found]


def _summaries(ids: list[str]) -> list[TraceSummary]:
    if not ids:
        return []
    found = rows(
        """
        SELECT
            TraceId, max(RootName), max(RootService), toUnixTimestamp64Nano(min(Start)),
            toUnixTimestamp64Nano(max(End)), sum(Spans), sum(Errors), groupUniqArrayArray(Services)
        FROM otel_traces_trace_id_ts
        WHERE TraceId IN {ids:Array(String)}
        GROUP BY TraceId
        """,
        {"ids": ids},
    )
    rootless = [row for row in found if not row[1]]
    first = _first_spans(rootless) if rootless else {}
    summaries = [
        TraceSummary(
            trace_id=trace_id,
            name=name or first.get(trace_id, ("", ""))[0],
            service=service or first.get(trace_id, ("", ""))[1],
            started_at=start / 1e9,
            duration_ms=max(0, end - start) / 1e6,
            spans=spans,
            errors=errors,
            services=tuple(sorted(services)),
        )
        for trace_id, name, service, start, end, spans, errors, services in found
    ]
    return sorted(summaries, key=lambda summary: summary.started_at, reverse=True)


def _first_spans(found: list[tuple[Any, ...]]) -> dict[str, tuple[str, str]]:
    """Name and service of the earliest span, for traces whose root is with somebody else (or not here yet)."""
    earliest = rows(
        """
        SELECT TraceId, argMin(SpanName, Timestamp), argMin(ServiceName, Timestamp)
        FROM otel_traces
        WHERE TraceId IN {ids:Array(String)}
            AND Timestamp >= fromUnixTimestamp64Nano({start:Int64})
            AND Timestamp <= fromUnixTimestamp64Nano({end:Int64})
        GROUP BY TraceId
        """,
        {
            "ids": [row[0] for row in found],
            "start": min(row[3] for row in found),
            "end": max(row[4] for row in found),
        },
    )
    return {trace_id: (name, service) for trace_id, name, service in earliest}


def _span(trace_id: str, row: tuple[Any, ...]) -> SpanRow:
    *head, times, names, maps = row
    span_id, parent, name, service, kind, started, duration, status, message, attributes, resource = head
    return SpanRow(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent,
        name=name,
        service=service,
        kind=kind,
        started_at=started / 1e9,
        duration_ms=duration / 1e6,
        status=status,
        status_message=message,
        attributes=dict(attributes),
        resource=dict(resource),
        events=[
            {"at": at / 1e9, "name": event, "attributes": dict(cells)}
            for at, event, cells in zip(times, names, maps, strict=True)
        ],
    )


def _red(service: str, cells: list[tuple[int, int, int]], window: float) -> Red:
    requests = sum(count for _, _, count in cells)
    errors = sum(count for is_error, _, count in cells if is_error)
    tails = quantiles((bucket, count) for _, bucket, count in cells)
    return Red(service, requests, errors, window, requests / window, errors / requests if requests else 0.0, *tails)


def _floor(at: float, step: int) -> int:
    return max(0, int(at // step) * step)


def _steps(since: float, until: float, step_s: float) -> tuple[int, int, int]:
    """First step's start, how many, and their length: whole tens of seconds, MOST_POINTS at most."""
    step = max(GRAIN, math.ceil(step_s / GRAIN) * GRAIN)
    first = _floor(since, step)
    count = max(1, math.ceil((until - first) / step))
    if count > MOST_POINTS:
        step *= math.ceil(count / MOST_POINTS)
        first = _floor(since, step)
        count = math.ceil((until - first) / step)
    return first, count, step
