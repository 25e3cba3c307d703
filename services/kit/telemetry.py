"""Traces and metrics of this process, by the OpenTelemetry SDK to any OTLP/HTTP collector.

Owns the providers and the ASGI instrumentation. A collector that is away costs nothing but the
telemetry itself: queues are bounded, exports time out, and the log says so once a minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.routing import Match
from starlette.types import ASGIApp, Scope

from services.kit.settings import Settings

EXPORT_TIMEOUT = 2.0
"""Seconds for one export, retries included; also the most that a stop waits for the last one."""
QUIET = "/health$,/ready$"
"""Probes come every two seconds for ever; their spans would say nothing."""


def start(settings: Settings) -> Callable[[], None]:
    """Install the providers of this process; what is returned flushes them and lets go, within seconds."""
    # The stable HTTP names (http.request.method, http.response.status_code), as the gateway writes them.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
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
        tracing.shutdown()
        measuring.shutdown(timeout_millis=EXPORT_TIMEOUT * 1000)

    return stop


def traced(asgi: ASGIApp, app: FastAPI) -> ASGIApp:
    """``asgi`` with a SERVER span per request, named by ``app``'s route template and not by the path."""

    def details(scope: Scope) -> tuple[str, dict[str, Any]]:
        method = scope.get("method", "GET")
        for route in app.router.routes:
            matched, _ = route.matches(scope)
            if matched is Match.FULL:
                path = getattr(route, "path", "")
                return f"{method} {path}", {"http.route": path}
        return method, {}

    wrapped: ASGIApp = OpenTelemetryMiddleware(
        asgi, excluded_urls=QUIET, default_span_details=details, exclude_spans=["send", "receive"]
    )
    return wrapped
