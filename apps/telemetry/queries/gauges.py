"""What gauges of processes say now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.telemetry.client import rows


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest value of one gauge of one service, by one of its attributes; over several processes the highest."""

    service: str
    metric: str
    of: str
    value: float


def newest_gauges(metrics: Sequence[str], attribute: str, since: float) -> list[Reading]:
    """What each of ``metrics`` said last, no longer ago than ``since``, by service and value of ``attribute``."""
    found = rows(
        """
        SELECT ServiceName, MetricName, Of, max(Last)
        FROM
        (
            SELECT ServiceName, MetricName, Attributes[{attribute:String}] AS Of, argMax(Value, TimeUnix) AS Last
            FROM otel_metrics_gauge
            WHERE MetricName IN {metrics:Array(String)} AND TimeUnix >= fromUnixTimestamp64Nano({since:Int64})
                AND Value BETWEEN 0 AND 1e15
            GROUP BY ServiceName, MetricName, Of, ResourceAttributes['service.instance.id']
        )
        GROUP BY ServiceName, MetricName, Of
        ORDER BY ServiceName, MetricName, Of
        LIMIT 1000
        """,
        {"metrics": list(metrics), "attribute": attribute, "since": int(since * 1e9)},
    )
    return [Reading(service, metric, of, float(value)) for service, metric, of, value in found]


@dataclass(frozen=True, slots=True)
class Said:
    """What one process last said by a gauge, at ``at``; it first spoke at ``first_at``.

    ``below_at``: when it last was below the bound that was asked for; None: never.
    """

    service: str
    metric: str
    of: str
    value: float
    at: float
    first_at: float
    below_at: float | None


def last_said(
    metrics: Sequence[str], attributes: Sequence[str], since: float, until: float, bound: float
) -> list[Said]:
    """The newest word of each process on each of ``metrics`` between two times, by the first of ``attributes``
    that it has; the newest first, at most 3,000."""
    found = rows(
        """
        SELECT ServiceName, MetricName,
            arrayFirst(one -> one != '', arrayMap(name -> Attributes[name], {attributes:Array(String)})) AS Of,
            argMax(Value, TimeUnix), toUnixTimestamp64Milli(max(TimeUnix)) AS At,
            toUnixTimestamp64Milli(min(TimeUnix)), toUnixTimestamp64Milli(maxIf(TimeUnix, Value < {bound:Float64}))
        FROM otel_metrics_gauge
        WHERE MetricName IN {metrics:Array(String)} AND Of != ''
            AND TimeUnix BETWEEN fromUnixTimestamp64Nano({since:Int64}) AND fromUnixTimestamp64Nano({until:Int64})
            AND Value BETWEEN 0 AND 1e15
        GROUP BY ServiceName, MetricName, Of, ResourceAttributes['service.instance.id']
        ORDER BY At DESC
        LIMIT 3000
        """,
        {
            "metrics": list(metrics),
            "attributes": list(attributes),
            "since": int(since * 1e9),
            "until": int(until * 1e9),
            "bound": bound,
        },
    )
    return [
        Said(service, metric, of, float(value), at / 1000, first / 1000, below / 1000 if below else None)
        for service, metric, of, value, at, first, below in found
    ]
