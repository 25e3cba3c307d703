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
    """What a gauge says of something that several processes measure alike: the newest word on it, whoever had it.

    ``below_at``: when it was last below the bound that was asked for, else the first word there is.
    """

    metric: str
    of: str
    value: float
    at: float
    below_at: float


def last_said(metrics: Sequence[str], attribute: str, since: float, until: float, bound: float) -> list[Said]:
    """The newest word of each of ``metrics`` from ``since`` to ``until``, by value of ``attribute``."""
    found = rows(
        """
        SELECT MetricName, Attributes[{attribute:String}] AS Of, argMax(Value, TimeUnix),
            toUnixTimestamp64Milli(max(TimeUnix)), toUnixTimestamp64Milli(min(TimeUnix)),
            toUnixTimestamp64Milli(maxIf(TimeUnix, Value < {bound:Float64}))
        FROM otel_metrics_gauge
        WHERE MetricName IN {metrics:Array(String)} AND Of != ''
            AND TimeUnix BETWEEN fromUnixTimestamp64Nano({since:Int64}) AND fromUnixTimestamp64Nano({until:Int64})
            AND Value BETWEEN 0 AND 1e15
        GROUP BY MetricName, Of
        ORDER BY Of, MetricName
        LIMIT 3000
        """,
        {
            "metrics": list(metrics),
            "attribute": attribute,
            "since": int(since * 1e9),
            "until": int(until * 1e9),
            "bound": bound,
        },
    )
    return [
        Said(metric, of, float(value), at / 1000, max(first, below) / 1000)
        for metric, of, value, at, first, below in found
    ]
