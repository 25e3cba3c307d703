"""How far counters of processes have gone up: what each dropped or refused lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.telemetry.client import rows


@dataclass(frozen=True, slots=True)
class Growth:
    """One counter of one service, over all its processes."""

    service: str
    metric: str
    grown: int


def counter_growth(metrics: Sequence[str], since: float) -> list[Growth]:
    """By how much each of ``metrics`` (cumulative sums) went up since then, where it did.

    A process that started since then counts from nothing; of one that runs on, what it had counted before is left
    out. A process is known by its ``service.instance.id``. What no counter can
    have counted (NaN, infinity) is no count.
    """
    found = rows(
        """
        SELECT ServiceName, MetricName, sum(Grown)
        FROM
        (
            SELECT
                ServiceName, MetricName,
                toUInt64(greatest(0, max(Value) - if(min(StartTimeUnix) >= fromUnixTimestamp64Nano({since:Int64}),
                    0, min(Value)))) AS Grown
            FROM otel_metrics_sum
            WHERE MetricName IN {metrics:Array(String)} AND TimeUnix >= fromUnixTimestamp64Nano({since:Int64})
                AND Value BETWEEN 0 AND 1e15
            GROUP BY ServiceName, MetricName, Attributes, ResourceAttributes['service.instance.id']
        )
        GROUP BY ServiceName, MetricName
        HAVING sum(Grown) > 0
        ORDER BY ServiceName, MetricName
        """,
        {"metrics": list(metrics), "since": int(since * 1e9)},
    )
    return [Growth(service, metric, int(grown)) for service, metric, grown in found]
