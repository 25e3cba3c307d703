"""OTLP metrics to blocks of the ``otel_metrics_*`` tables in ClickHouse's Native format. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from apps.lib.proof import Sender, needed
from apps.telemetry.collector import native
from apps.telemetry.collector.attributes import LONGEST_KEY, Counter, Malformed, Pair, Pairs
from apps.telemetry.collector.decode import DAY, MAP, Block, Decoded

REFUSED = (
    "names that begin with mc. are Mission Control's own, and those that begin with mc.bus. or mc.outbox. are said by "
    "whoever shows the fleet token"
)
LONGEST_TEXT = 1024
MOST_BUCKETS = 512
MOST_EXEMPLARS = 16

Columns = list[tuple[str, str, bytes]]


@dataclass(slots=True)
class _Origin:
    """Resource and scope of a group of metrics, encoded once."""

    service: bytes
    resource: list[Pair]
    resource_schema: bytes
    scope_name: bytes
    scope_version: bytes
    scope: list[Pair]
    scope_dropped: int
    scope_schema: bytes


@dataclass(slots=True)
class _Rows:
    """The points for one table."""

    origins: list[_Origin] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    points: list[Any] = field(default_factory=list)


TABLES = {
    "gauge": "otel_metrics_gauge",
    "sum": "otel_metrics_sum",
    "histogram": "otel_metrics_histogram",
    "exponential_histogram": "otel_metrics_exponential_histogram",
    "summary": "otel_metrics_summary",
}


class MetricDecoder:
    """Holds the attribute cache; one per process and thread."""

    def __init__(self, *, keep_days: int = 7) -> None:
        self.counter = Counter()
        self._keep = keep_days * DAY
        self._pairs = Pairs(self.counter)

    def decode(self, body: bytes, now: float, sender: Sender) -> Decoded:
        """Read one ExportMetricsServiceRequest; Malformed when it isn't one. ``now``: wall-clock seconds.

        What the ``sender`` may not report is rejected.
        """
        try:
            request = ExportMetricsServiceRequest.FromString(body)
        except DecodeError:
            raise Malformed("the body is not a valid ExportMetricsServiceRequest") from None
        decoded = Decoded()
        tables: dict[str, _Rows] = defaultdict(_Rows)
        oldest, newest = int(now * 1e9) - self._keep, int(now * 1e9) + DAY
        for group in request.resource_metrics:
            for scoped in group.scope_metrics:
                origin = self._origin(group, scoped)
                for metric in scoped.metrics:
                    if sender < needed(metric.name):
                        kind = metric.WhichOneof("data")
                        count = len(getattr(metric, kind).data_points) if kind else 0
                        decoded.reject(count, REFUSED)
                        continue
                    self._points(tables, origin, metric, oldest, newest, decoded)
        for kind, rows in tables.items():
            if rows.points:
                decoded.blocks.append(self._block(kind, rows))
                decoded.accepted += len(rows.points)
        return decoded

    def _origin(self, group: Any, scoped: Any) -> _Origin:
        attributes = group.resource.attributes
        name = next((item.value.string_value for item in attributes if item.key == "service.name"), "")
        return _Origin(
            native.text(name[:LONGEST_KEY] or "unknown_service"),
            self._pairs.parsed(attributes),
            native.text(group.schema_url[:LONGEST_TEXT]),
            native.text(scoped.scope.name[:LONGEST_KEY]),
            native.text(scoped.scope.version[:LONGEST_KEY]),
            self._pairs.parsed(scoped.scope.attributes),
            scoped.scope.dropped_attributes_count,
            native.text(scoped.schema_url[:LONGEST_TEXT]),
        )

    def _points(
        self, tables: dict[str, _Rows], origin: _Origin, metric: Any, oldest: int, newest: int, decoded: Decoded
    ) -> None:
        kind = metric.WhichOneof("data")
        if kind is None:
            return
        rows = tables[kind]
        for point in getattr(metric, kind).data_points:
            if not metric.name:
                decoded.reject(1, "a metric must have a name")
            elif not oldest <= point.time_unix_nano <= newest:
                decoded.reject(1, f"a point's time must lie within the {self._keep // DAY} days kept")
            elif point.flags & 1:
                # No recorded value: the series ended. There is nothing to store.
                continue
            else:
                rows.origins.append(origin)
                rows.metrics.append(metric)
                rows.points.append(point)

    def _block(self, kind: str, rows: _Rows) -> Block:
        columns = self._common(rows)
        columns += _OWN[kind](self, rows)
        return Block(TABLES[kind], len(rows.points), native.block(len(rows.points), columns))

    def _common(self, rows: _Rows) -> Columns:
        origins, metrics, points = rows.origins, rows.metrics, rows.points
        return [
            ("ResourceAttributes", MAP, _maps(origin.resource for origin in origins)),
            ("ResourceSchemaUrl", "String", b"".join(origin.resource_schema for origin in origins)),
            ("ScopeName", "String", b"".join(origin.scope_name for origin in origins)),
            ("ScopeVersion", "String", b"".join(origin.scope_version for origin in origins)),
            ("ScopeAttributes", MAP, _maps(origin.scope for origin in origins)),
            ("ScopeDroppedAttrCount", "UInt32", native.unsigned32(origin.scope_dropped for origin in origins)),
            ("ScopeSchemaUrl", "String", b"".join(origin.scope_schema for origin in origins)),
            ("ServiceName", "String", b"".join(origin.service for origin in origins)),
            ("MetricName", "String", native.strings(metric.name[:LONGEST_TEXT] for metric in metrics)),
            ("MetricDescription", "String", native.strings(metric.description[:LONGEST_TEXT] for metric in metrics)),
            ("MetricUnit", "String", native.strings(metric.unit[:LONGEST_KEY] for metric in metrics)),
            ("Attributes", MAP, _maps(self._pairs.parsed(point.attributes) for point in points)),
            ("StartTimeUnix", "DateTime64(9)", native.unsigned(_instant(p.start_time_unix_nano) for p in points)),
            ("TimeUnix", "DateTime64(9)", native.unsigned(point.time_unix_nano for point in points)),
            ("Flags", "UInt32", native.unsigned32(point.flags for point in points)),
        ]

    def _gauge(self, rows: _Rows) -> Columns:
        return [("Value", "Float64", native.floats(map(_number, rows.points))), *self._exemplars(rows)]

    def _sum(self, rows: _Rows) -> Columns:
        return [
            *self._gauge(rows),
            ("AggregationTemporality", "Int32", native.signed32(m.sum.aggregation_temporality for m in rows.metrics)),
            ("IsMonotonic", "Bool", native.bools(metric.sum.is_monotonic for metric in rows.metrics)),
        ]

    def _spread(self, rows: _Rows, kind: str) -> Columns:
        points = rows.points
        temporality = (getattr(metric, kind).aggregation_temporality for metric in rows.metrics)
        return [
            ("Count", "UInt64", native.unsigned(point.count for point in points)),
            ("Sum", "Float64", native.floats(point.sum for point in points)),
            ("Min", "Float64", native.floats(point.min for point in points)),
            ("Max", "Float64", native.floats(point.max for point in points)),
            ("AggregationTemporality", "Int32", native.signed32(temporality)),
            *self._exemplars(rows),
        ]

    def _histogram(self, rows: _Rows) -> Columns:
        counts = (point.bucket_counts[:MOST_BUCKETS] for point in rows.points)
        bounds = (point.explicit_bounds[:MOST_BUCKETS] for point in rows.points)
        return [
            *self._spread(rows, "histogram"),
            ("BucketCounts", "Array(UInt64)", _arrays(counts, native.unsigned)),
            ("ExplicitBounds", "Array(Float64)", _arrays(bounds, native.floats)),
        ]

    def _exponential(self, rows: _Rows) -> Columns:
        points = rows.points
        positive = (point.positive.bucket_counts[:MOST_BUCKETS] for point in points)
        negative = (point.negative.bucket_counts[:MOST_BUCKETS] for point in points)
        return [
            *self._spread(rows, "exponential_histogram"),
            ("Scale", "Int32", native.signed32(point.scale for point in points)),
            ("ZeroCount", "UInt64", native.unsigned(point.zero_count for point in points)),
            ("PositiveOffset", "Int32", native.signed32(point.positive.offset for point in points)),
            ("PositiveBucketCounts", "Array(UInt64)", _arrays(positive, native.unsigned)),
            ("NegativeOffset", "Int32", native.signed32(point.negative.offset for point in points)),
            ("NegativeBucketCounts", "Array(UInt64)", _arrays(negative, native.unsigned)),
        ]

    def _summary(self, rows: _Rows) -> Columns:
        points = rows.points
        quantiles = [point.quantile_values[:MOST_BUCKETS] for point in points]
        return [
            ("Count", "UInt64", native.unsigned(point.count for point in points)),
            ("Sum", "Float64", native.floats(point.sum for point in points)),
            (
                "ValueAtQuantiles.Quantile",
                "Array(Float64)",
                _arrays(([item.quantile for item in row] for row in quantiles), native.floats),
            ),
            (
                "ValueAtQuantiles.Value",
                "Array(Float64)",
                _arrays(([item.value for item in row] for row in quantiles), native.floats),
            ),
        ]

    def _exemplars(self, rows: _Rows) -> Columns:
        lists = [point.exemplars[:MOST_EXEMPLARS] for point in rows.points]
        if not any(lists):
            return []
        counts = native.offsets(map(len, lists))
        every = [exemplar for row in lists for exemplar in row]
        return [
            (
                "Exemplars.FilteredAttributes",
                f"Array({MAP})",
                counts + _maps(self._pairs.parsed(exemplar.filtered_attributes) for exemplar in every),
            ),
            (
                "Exemplars.TimeUnix",
                "Array(DateTime64(9))",
                counts + native.unsigned(_instant(exemplar.time_unix_nano) for exemplar in every),
            ),
            ("Exemplars.Value", "Array(Float64)", counts + native.floats(map(_number, every))),
            ("Exemplars.SpanId", "Array(String)", counts + native.strings(item.span_id.hex()[:64] for item in every)),
            ("Exemplars.TraceId", "Array(String)", counts + native.strings(item.trace_id.hex()[:64] for item in every)),
        ]


_OWN: dict[str, Callable[[MetricDecoder, _Rows], Columns]] = {
    "gauge": MetricDecoder._gauge,
    "sum": MetricDecoder._sum,
    "histogram": MetricDecoder._histogram,
    "exponential_histogram": MetricDecoder._exponential,
    "summary": MetricDecoder._summary,
}


def _number(point: Any) -> float:
    return float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double)


def _instant(nanoseconds: int) -> int:
    return min(nanoseconds, 2**63 - 1)


def _maps(rows: Iterable[list[Pair]]) -> bytes:
    cells = list(rows)
    flat = [pair for row in cells for pair in row]
    return native.offsets(map(len, cells)) + b"".join([key for key, _ in flat]) + b"".join([value for _, value in flat])


def _arrays(rows: Iterable[Any], encode: Callable[[Iterable[Any]], bytes]) -> bytes:
    cells = list(rows)
    return native.offsets(map(len, cells)) + encode(item for row in cells for item in row)
