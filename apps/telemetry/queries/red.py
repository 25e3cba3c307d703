"""Rate, errors and duration of what services report of themselves, from the rollups of their spans."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from apps.lib import clock
from apps.telemetry.client import rows
from apps.telemetry.quantiles import quantiles
from apps.telemetry.queries.steps import GRAIN, floor, steps


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


def red_by_service(window_s: float = 60.0) -> dict[str, Red]:
    """Every service that served a request in the last ``window_s`` seconds (server spans).

    What a service with a clock ahead says of times to come is not of this window, and would multiply its rate.
    """
    now = clock.wall()
    since = floor(now - window_s, GRAIN)
    found = rows(
        """
        SELECT ServiceName, IsError, Bucket, sum(Count)
        FROM otel_red_10s
        WHERE Time >= toDateTime({since:UInt32}) AND Time < toDateTime({until:UInt32}) AND SpanKind = 'Server'
        GROUP BY ServiceName, IsError, Bucket
        """,
        {"since": since, "until": int(now) + 1},
    )
    grouped: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for service, is_error, bucket, count in found:
        grouped[service].append((is_error, bucket, count))
    window = max(1.0, now - since)
    return {service: _red(service, cells, window) for service, cells in sorted(grouped.items())}


def red_by_operation(service: str, window_s: float = 3600.0, limit: int = 100) -> list[OperationRed]:
    """What ``service`` served by operation, busiest first (server and consumer spans, by whole minutes)."""
    now = clock.wall()
    found = rows(
        """
        SELECT SpanName, sum(Total), sum(Errors), groupArray((Bucket, Total))
        FROM
        (
            SELECT SpanName, Bucket, sum(Count) AS Total, sumIf(Count, IsError = 1) AS Errors
            FROM otel_red_1m
            WHERE ServiceName = {service:String} AND SpanKind IN ('Server', 'Consumer')
                AND Time >= toDateTime({since:UInt32}) AND Time < toDateTime({until:UInt32})
            GROUP BY SpanName, Bucket
        )
        GROUP BY SpanName
        ORDER BY sum(Total) DESC, SpanName
        LIMIT {limit:UInt32}
        """,
        {"service": service, "since": floor(now - window_s, 60), "until": int(now) + 1, "limit": limit},
    )
    return [OperationRed(name, total, errors, *quantiles(cells)) for name, total, errors, cells in found]


def red_series(service: str, since: float, until: float, step_s: float) -> list[RedPoint]:
    """What ``service`` served, step by step; a step without requests is a point with none."""
    first, count, step = steps(since, until, step_s)
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
    first, count, step = steps(since, until, step_s)
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


def _red(service: str, cells: list[tuple[int, int, int]], window: float) -> Red:
    requests = sum(count for _, _, count in cells)
    errors = sum(count for is_error, _, count in cells if is_error)
    tails = quantiles((bucket, count) for _, bucket, count in cells)
    return Red(service, requests, errors, window, requests / window, errors / requests if requests else 0.0, *tails)
