"""Traces, from the spans: lists of them, and one with its spans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from apps.lib import clock
from apps.telemetry.client import rows

MOST_SPANS = 20_000
"""Of one trace that are read."""


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
class TraceTotals:
    """A whole trace in one row, from the rollup: exact however many spans it has."""

    trace_id: str
    name: str
    """Of the root span; empty when it is with somebody else."""
    start_ns: int
    """Nanoseconds since the epoch."""
    end_ns: int
    spans: int
    errors: int
    services: tuple[str, ...]

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""
        return self.start_ns / 1e9

    @property
    def duration_ms(self) -> float:
        """From the first span's start to the last one's end."""
        return max(0, self.end_ns - self.start_ns) / 1e6


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


def recent_traces(
    *,
    since: float,
    until: float | None = None,
    service: str | None = None,
    name: str | None = None,
    attribute: tuple[str, str] | None = None,
    errors_only: bool = False,
    min_ms: float | None = None,
    limit: int = 50,
) -> list[TraceSummary]:
    """Traces with a span that passes every filter, newest first.

    ``name`` matches any part, in any case; ``attribute`` is a span attribute's key and whole value.
    """
    where = [_WITHIN]
    parameters: dict[str, Any] = {"limit": limit}
    if service:
        where.append("ServiceName = {service:String}")
        parameters["service"] = service
    if name:
        where.append("positionCaseInsensitiveUTF8(SpanName, {name:String}) > 0")
        parameters["name"] = name
    if attribute is not None:
        # The first says what is wanted; the second is what the bloom filter over values understands.
        where += ["SpanAttributes[{key:String}] = {value:String}", "has(mapValues(SpanAttributes), {value:String})"]
        parameters["key"], parameters["value"] = attribute
    if errors_only:
        where.append("StatusCode = 'Error'")
    if min_ms is not None:
        where.append("Duration >= {shortest:UInt64}")
        parameters["shortest"] = int(min_ms * 1e6)
    ids: dict[str, None] = {}
    for start, end in _slices(since, until):
        found = rows(
            f"""
            SELECT TraceId
            FROM otel_traces
            WHERE {" AND ".join(where)}
            ORDER BY toDateTime(Timestamp) DESC
            LIMIT 1 BY TraceId
            LIMIT {{limit:UInt32}}
            """,  # noqa: S608 (the clauses are the constants above; values travel as parameters)
            parameters | {"since": int(start * 1e9), "until": int(end * 1e9)},
        )
        ids.update(dict.fromkeys(row[0] for row in found))
        if len(ids) >= limit:
            break
    return _summaries(list(ids)[:limit])


_WITHIN = "Timestamp >= fromUnixTimestamp64Nano({since:Int64}) AND Timestamp <= fromUnixTimestamp64Nano({until:Int64})"
FIRST_SLICE, WIDER = 60.0, 4
"""Seconds first searched, and how many times wider each next slice is: what is common is found in the first."""
AHEAD = 3600.0
"""Seconds: a span of a clock that is ahead of ours is found too."""


def _slices(since: float, until: float | None) -> Iterator[tuple[float, float]]:
    """Start and end of stretches that cover the time asked for, newest first."""
    end, ahead = (until, 0.0) if until is not None else (clock.wall() + AHEAD, AHEAD)
    width = FIRST_SLICE
    while True:
        start = max(since, end - ahead - width)
        yield start, end
        if start <= since:
            return
        end, ahead, width = start, 0.0, width * WIDER


def trace_totals(trace_id: str) -> TraceTotals | None:
    """What one trace amounts to, whatever its size; None when it is unknown."""
    found = rows(
        """
        SELECT
            toUnixTimestamp64Nano(min(Start)), toUnixTimestamp64Nano(max(End)), sum(Spans), sum(Errors),
            groupUniqArrayArray(Services), max(RootName)
        FROM otel_traces_trace_id_ts
        WHERE TraceId = {id:String}
        GROUP BY TraceId
        """,
        {"id": trace_id},
    )
    if not found:
        return None
    start, end, spans, errors, services, name = found[0]
    return TraceTotals(trace_id, name, start, end, spans, errors, tuple(sorted(services)))


def trace(trace_id: str, *, limit: int = MOST_SPANS, offset: int = 0) -> list[SpanRow]:
    """The spans of one trace by start, ``limit`` of them after the first ``offset``; empty when it is unknown."""
    totals = trace_totals(trace_id)
    return [] if totals is None else spans_by_time(totals, limit=limit, offset=offset)


def spans_by_time(totals: TraceTotals, *, limit: int, offset: int = 0) -> list[SpanRow]:
    """A window over a trace's spans by start."""
    return _spans(totals, "ORDER BY Timestamp, SpanId LIMIT {limit:UInt32} OFFSET {offset:UInt32}", limit, offset)


def telling_spans(totals: TraceTotals, *, limit: int) -> list[SpanRow]:
    """The spans that tell most about a trace, by start: its roots, then what failed, then what took longest."""
    order = "ORDER BY ParentSpanId = '' DESC, StatusCode = 'Error' DESC, Duration DESC, SpanId"
    return _spans(totals, f"{order} LIMIT {{limit:UInt32}}", limit)


def _spans(totals: TraceTotals, window: str, limit: int, offset: int = 0) -> list[SpanRow]:
    """The spans that ``window`` (a constant of this file) chooses, by start."""
    within = """
        TraceId = {id:String}
            AND Timestamp >= fromUnixTimestamp64Nano({start:Int64})
            AND Timestamp <= fromUnixTimestamp64Nano({end:Int64})
    """
    # The choice among many reads narrow columns alone; the wide ones are read for the chosen.
    chosen = f" AND (Timestamp, SpanId) IN (SELECT Timestamp, SpanId FROM otel_traces WHERE {within} {window})"  # noqa: S608
    found = rows(
        f"""
        SELECT
            SpanId, ParentSpanId, SpanName, ServiceName, SpanKind, toUnixTimestamp64Nano(Timestamp), Duration,
            StatusCode, StatusMessage, SpanAttributes, ResourceAttributes,
            arrayMap(at -> toUnixTimestamp64Nano(at), Events.Timestamp), Events.Name, Events.Attributes
        FROM otel_traces
        WHERE {within}{chosen if offset or limit < totals.spans else ""}
        ORDER BY Timestamp, SpanId
        LIMIT {{limit:UInt32}}
        """,  # noqa: S608 (constants of this file; values travel as parameters)
        {"id": totals.trace_id, "start": totals.start_ns, "end": totals.end_ns, "limit": limit, "offset": offset},
    )
    return [_span(totals.trace_id, row) for row in found]


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
