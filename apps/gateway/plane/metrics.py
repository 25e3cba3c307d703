"""The worker's counters as an OTLP metrics request. Cumulative, so a lost export loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric, ScopeMetrics

from apps.gateway.core.metrics import BOUNDS
from apps.gateway.core.trace import Value, key_value
from apps.lib.clock import monotonic

if TYPE_CHECKING:
    from apps.gateway.plane.gateway import Gateway

_STATES = {"closed": 0, "half_open": 1, "open": 2}


def encode(gateway: Gateway, resource: Mapping[str, Value]) -> bytes:
    """The body of ``POST /v1/metrics``."""
    request = ExportMetricsServiceRequest()
    scoped = request.resource_metrics.add()
    scoped.resource.attributes.extend(_labels(resource))
    scope = scoped.scope_metrics.add()
    scope.scope.name = "mission-control.gateway"
    now = time_ns()
    start = now - int((monotonic() - gateway.started_at) * 1e9)
    _durations(scope, gateway, start, now)
    _counters(scope, gateway, start, now)
    _gauges(scope, gateway, now)
    return bytes(request.SerializeToString())


def _labels(values: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue.FromString(key_value(key, value)) for key, value in values.items() if value != ""]


def _durations(scope: ScopeMetrics, gateway: Gateway, start: int, now: int) -> None:
    metric = scope.metrics.add(name="http.server.request.duration", unit="s")
    metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    for (route, service, method, status), histogram in gateway.metrics.durations.items():
        point = metric.histogram.data_points.add(
            start_time_unix_nano=start,
            time_unix_nano=now,
            count=histogram.count,
            sum=histogram.total,
            bucket_counts=histogram.buckets,
            explicit_bounds=BOUNDS,
        )
        labels = {"mc.route": route, "mc.service": service, "http.request.method": method}
        point.attributes.extend(_labels(labels | {"http.response.status_code": status}))


def _counters(scope: ScopeMetrics, gateway: Gateway, start: int, now: int) -> None:
    counters = dict(gateway.metrics.counters)
    counters["mc.gateway.dropped", "record"] = gateway.report.dropped
    counters["mc.gateway.spans.sent", ""] = gateway.report.sent
    metrics: dict[str, Metric] = {}
    for (name, reason), count in counters.items():
        metric = metrics.get(name)
        if metric is None:
            metric = metrics[name] = scope.metrics.add(name=name, unit="1")
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.sum.is_monotonic = True
        point = metric.sum.data_points.add(start_time_unix_nano=start, time_unix_nano=now, as_int=count)
        point.attributes.extend(_labels({"reason": reason}))


def _gauges(scope: ScopeMetrics, gateway: Gateway, now: int) -> None:
    gauges: list[tuple[str, float, dict[str, Value]]] = [
        ("mc.gateway.connections", len(gateway.clients), {}),
        ("mc.gateway.requests.active", len(gateway.inflight), {}),
    ]
    table = gateway.table
    if table is not None:
        gauges.append(("mc.gateway.revision", table.document.revision, {}))
        for name, service in table.services.items():
            gauges.append(("mc.gateway.breaker.state", _STATES[service.breaker.state], {"mc.service": name}))
            for instance in service.instances.values():
                labels: dict[str, Value] = {"mc.instance": instance.key}
                gauges.append(("mc.gateway.upstream.in_flight", instance.in_flight, labels))
                gauges.append(("mc.gateway.upstream.idle", len(instance.idle), labels))
    metrics: dict[str, Metric] = {}
    for name, value, labels in gauges:
        metric = metrics.get(name)
        if metric is None:
            metric = metrics[name] = scope.metrics.add(name=name, unit="1")
        point = metric.gauge.data_points.add(time_unix_nano=now, as_double=float(value))
        point.attributes.extend(_labels(labels))
