"""OpenTelemetry for the processes that run Django: traces and metrics by OTLP/HTTP to our own collector.

Everything is bounded: a span queue that drops when full and counts it, exports that give up, a stop that
does not wait for them, and a log that hears of an absent collector once a minute, not once a second.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from threading import Thread

import requests
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from apps.lib import clock, proof
from missioncontrol import keys

EXPORT_TIMEOUT_S = 10
"""For one export, retries included; the collector answers when it has stored, which takes its time under load."""
FLUSH_S = 2.0
"""The most that a stop waits for the last exports."""
SPANS_EVERY_MS = 1000
SPANS_QUEUED = 4096
METRICS_EVERY_MS = 10_000
COMPLAIN_EVERY_S = 60.0


class OnceInAWhile(logging.Filter):
    """Lets one record through per period, whatever it says."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = clock.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


def setup(service_name: str, *, endpoint: str, version: str) -> Callable[[], None]:
    """Report as ``service_name`` to the collector at ``endpoint``; returns what flushes and stops it.

    Call it once per process, after any fork. W3C trace context is the SDK's default propagator.
    """
    # The SDK's own counters tell what its queue dropped.
    os.environ.setdefault("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    for name in (OTLPSpanExporter.__module__, OTLPMetricExporter.__module__):
        logger = logging.getLogger(name)
        if not logger.filters:
            logger.addFilter(OnceInAWhile(COMPLAIN_EVERY_S))
    resource = Resource.create(
        {
            "service.name": service_name,
            "service.namespace": "mission-control",
            "service.version": version,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
    )
    base = endpoint.rstrip("/")
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=EXPORT_TIMEOUT_S, session=_session()),
        export_interval_millis=METRICS_EVERY_MS,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
    meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=EXPORT_TIMEOUT_S, session=_session()),
            schedule_delay_millis=SPANS_EVERY_MS,
            max_queue_size=SPANS_QUEUED,
            max_export_batch_size=512,
            export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
        )
    )
    trace.set_tracer_provider(tracers)

    def stop() -> None:
        # Beside each other, and not waited for any longer: with the collector away, each would take its whole timeout.
        flushing = [Thread(target=provider.shutdown, daemon=True) for provider in (tracers, meters)]
        for thread in flushing:
            thread.start()
        until = clock.monotonic() + FLUSH_S
        for thread in flushing:
            thread.join(max(0.0, until - clock.monotonic()))

    return stop


def _session() -> requests.Session:
    """One that shows whose export it is, beside whatever OTEL_EXPORTER_OTLP_HEADERS says."""
    session = requests.Session()
    session.headers[proof.FIELD] = keys.telemetry()
    return session
