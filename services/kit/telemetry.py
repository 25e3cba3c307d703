"""Traces and metrics of this process, by the OpenTelemetry SDK to any OTLP/HTTP collector.

Owns the providers and what is reported of requests. A collector that is away costs nothing but the
telemetry itself: queues are bounded, exports time out, and the log says so once a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread

from fastapi.telemetry import TelemetryConfig
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.types import Scope

from .settings import Settings

EXPORT_TIMEOUT = 10.0
"""Seconds for one export, retries included; the collector answers when it has stored."""
FLUSH_SECONDS = 2.0
"""The most that a stop waits for the last export."""


def start(settings: Settings) -> Callable[[], None]:
    """Install the providers of this process; what is returned flushes them and lets go, within seconds."""
    resource = Resource.create(
        {
            "service.name": settings.name,
            "service.version": settings.version,
            "service.instance.id": settings.instance,
            "service.namespace": "fleet",
        }
    )
    headers = {"Authorization": f"Bearer {settings.fleet_token}"}
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracing.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(
                f"{settings.otlp_url}/v1/traces",
                headers=headers,
                timeout=EXPORT_TIMEOUT,
                compression=Compression.Gzip,
            ),
            schedule_delay_millis=1000,
            max_queue_size=4096,
            export_timeout_millis=EXPORT_TIMEOUT * 1000,
        )
    )
    trace.set_tracer_provider(tracing)
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(
            f"{settings.otlp_url}/v1/metrics", headers=headers, timeout=EXPORT_TIMEOUT, compression=Compression.Gzip
        ),
        export_interval_millis=10_000,
        export_timeout_millis=EXPORT_TIMEOUT * 1000,
    )
    measuring = MeterProvider(resource=resource, metric_readers=[reader], shutdown_on_exit=False)
    metrics.set_meter_provider(measuring)

    def stop() -> None:
        # Beside each other, and not waited for any longer: with the collector away, each would take its whole timeout.
        flushing = [Thread(target=provider.shutdown, daemon=True) for provider in (tracing, measuring)]
        for thread in flushing:
            thread.start()
        until = time.monotonic() + FLUSH_SECONDS
        for thread in flushing:
            thread.join(max(0.0, until - time.monotonic()))

    return stop


def of_requests() -> TelemetryConfig:
    """How FastAPI reports requests: one SERVER span each, named by the route, and its duration; probes are left out.

    It writes the stable HTTP names (http.request.method, http.route, http.response.status_code).
    """
    return {"exclude": _is_probe, "operation_spans": False, "logs": False, "auto_configure": False}


def _is_probe(scope: Scope) -> bool:
    # Probes come every two seconds for ever; their spans would say nothing.
    return scope.get("path") in {"/health", "/ready"}
