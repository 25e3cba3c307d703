"""What pages and REST ask of telemetry: the gateway's own counts (edge), services' own spans (red), traces.

Times are wall-clock seconds, durations milliseconds. Every function raises ``TelemetryAway`` when ClickHouse
can't answer within two seconds. Quantiles are within the error that apps.telemetry.quantiles states.
"""

from apps.telemetry.client import TelemetryAway
from apps.telemetry.queries.counters import Growth, counter_growth
from apps.telemetry.queries.edge import (
    Affected,
    EdgeAffected,
    EdgeFailure,
    EdgeFailures,
    EdgeFigures,
    EdgePoint,
    EdgeReport,
    edge_affected,
    edge_by_consumer,
    edge_by_route,
    edge_by_service,
    edge_failures,
    edge_newest,
    edge_series,
    edge_sparks,
)
from apps.telemetry.queries.gauges import Reading, Said, last_said, newest_gauges
from apps.telemetry.queries.red import (
    OperationRed,
    Red,
    RedPoint,
    red_by_operation,
    red_by_service,
    red_series,
    sparks,
)
from apps.telemetry.queries.steps import MOST_POINTS
from apps.telemetry.queries.traces import (
    SpanRow,
    TraceSummary,
    TraceTotals,
    recent_traces,
    spans_by_time,
    telling_spans,
    trace,
    trace_totals,
)

__all__ = [
    "MOST_POINTS",
    "Affected",
    "EdgeAffected",
    "EdgeFailure",
    "EdgeFailures",
    "EdgeFigures",
    "EdgePoint",
    "EdgeReport",
    "Growth",
    "OperationRed",
    "Reading",
    "Red",
    "RedPoint",
    "Said",
    "SpanRow",
    "TelemetryAway",
    "TraceSummary",
    "TraceTotals",
    "counter_growth",
    "edge_affected",
    "edge_by_consumer",
    "edge_by_route",
    "edge_by_service",
    "edge_failures",
    "edge_newest",
    "edge_series",
    "edge_sparks",
    "last_said",
    "newest_gauges",
    "recent_traces",
    "red_by_operation",
    "red_by_service",
    "red_series",
    "spans_by_time",
    "sparks",
    "telling_spans",
    "trace",
    "trace_totals",
]
