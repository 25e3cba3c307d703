"""The worker's counters as an OTLP metrics request. Cumulative, so a lost export loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from time import time_ns

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric, ScopeMetrics

from apps.gateway.core.metrics import BOUNDS
from apps.gateway.core.trace import Value, key_value
from apps.gateway.plane.worker import Worker
from apps.lib.clock import monotonic

_STATES = {"closed": 0, "half_open": 1, "open": 2}


def encode(worker: Worker, resource: Mapping[str, Value], counters: dict[tuple[str, str], int]) -> bytes:
    """The body of ``POST /v1/metrics``; ``counters`` are added to the worker's own."""
    request = ExportMetricsServiceRequest()
    scoped = request.resource_metrics.add()
    scoped.resource.attributes.extend(_labels(resource))
    scope = scoped.scope_metrics.add()
    scope.scope.name = "mission-control.gateway"
    now = time_ns()
    start = now - int((monotonic() - worker.started_at) * 1e9)
    _durations(scope, worker, start, now)
    _counters(scope, worker.metrics.counters | counters | _overloaded(worker), start, now)
    _gauges(scope, worker, now)
    return bytes(request.SerializeToString())


def _labels(values: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue.FromString(key_value(key, value)) for key, value in values.items() if value != ""]


def _durations(scope: ScopeMetrics, worker: Worker, start: int, now: int) -> None:
    metric = scope.metrics.add(name="http.server.request.duration", unit="s")
    metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    for (route, service, method, status), histogram in worker.metrics.durations.items():
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


def _overloaded(worker: Worker) -> dict[tuple[str, str], int]:
    services = worker.table.services if worker.table is not None else {}
    return {("mc.gateway.overloaded", name): service.gate.refused for name, service in services.items()}


def _counters(scope: ScopeMetrics, counters: Mapping[tuple[str, str], int], start: int, now: int) -> None:
    metrics: dict[str, Metric] = {}
    for (name, reason), count in counters.items():
        metric = metrics.get(name)
        if metric is None:
            metric = metrics[name] = scope.metrics.add(name=name, unit="1")
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.sum.is_monotonic = True
        point = metric.sum.data_points.add(start_time_unix_nano=start, time_unix_nano=now, as_int=count)
        point.attributes.extend(_labels({"reason": reason}))


def _gauges(scope: ScopeMetrics, worker: Worker, now: int) -> None:
    gauges: list[tuple[str, float, dict[str, Value]]] = [
        ("mc.gateway.connections", len(worker.clients), {}),
        ("mc.gateway.requests.active", len(worker.inflight), {}),
    ]
    waiting = Counter(request.waits for request in worker.inflight)
    gauges += [("mc.gateway.requests.waiting", count, {"mc.state": state}) for state, count in waiting.items()]
    table = worker.table
    if table is not None:
        gauges.append(("mc.gateway.revision", table.document.revision, {}))
        for name, service in table.services.items():
            gauges.append(("mc.gateway.breaker.state", _STATES[service.breaker.state], {"mc.service": name}))
            gauges.append(("mc.gateway.panic", service.panic, {"mc.service": name}))
            gauges.append(("mc.gateway.in_flight", service.gate.in_flight, {"mc.service": name}))
            gauges.append(("mc.gateway.in_flight.limit", int(service.gate.limit), {"mc.service": name}))
            gauges.append(("mc.gateway.outlier.ejected", len(service.outliers.ejected()), {"mc.service": name}))
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
