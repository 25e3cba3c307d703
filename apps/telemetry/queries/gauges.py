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
