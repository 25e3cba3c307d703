"""Traces and metrics of this process, by the OpenTelemetry SDK to any OTLP/HTTP collector.

Owns the providers. Everything is bounded: a span queue that drops when full and counts it, exports that
give up, a stop that does not wait for them, and a log that hears of an absent collector once a minute.
"""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider, MetricsTimeoutError
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from .logs import Sparing
from .together import seconds_until

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 10.0
"""For one export, retries included; the collector answers when it has stored, which takes its time under load."""
FLUSH_S = 2.0
"""The most that a stop waits for the last exports."""
SPANS_EVERY_MS = 1000
SPANS_QUEUED = 4096
METRICS_EVERY_S = 10.0
"""All processes at about the same moment: what an export costs the store does not grow with what is in it."""

COMPLAIN = (
    OTLPSpanExporter.__module__,
    OTLPMetricExporter.__module__,
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)
"""The loggers that say that a collector is away."""


def start(
    service: str,
    *,
    endpoint: str,
    version: str,
    headers: Mapping[str, str] | None = None,
    instance: str = "",
    namespace: str = "mission-control",
) -> Callable[[], None]:
    """Report as ``service`` to the collector at ``endpoint``; returns what flushes and stops it, within seconds.

    Call it once per process, after any fork. W3C trace context is the SDK's default propagator.
    """
    # The SDK's own counters tell what its queue dropped.
    os.environ.setdefault("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    sparing = Sparing()
    for name in COMPLAIN:
        logger = logging.getLogger(name)
        if not logger.filters:
            logger.addFilter(sparing)
    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": namespace,
            "service.version": version,
            "service.instance.id": instance or f"{socket.gethostname()}:{os.getpid()}",
        }
    )
    how = {"headers": dict(headers or {}), "timeout": EXPORT_TIMEOUT_S, "compression": Compression.Gzip}
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{endpoint}/v1/metrics", **how),
        # Its own clock begins at the process's start: another for each process.
        export_interval_millis=math.inf,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
    measuring = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(measuring)
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracing.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(f"{endpoint}/v1/traces", **how),
            schedule_delay_millis=SPANS_EVERY_MS,
            max_queue_size=SPANS_QUEUED,
            max_export_batch_size=512,
            export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
        )
    )
    trace.set_tracer_provider(tracing)
    ended = Event()
    collecting = Thread(target=_collect, args=(reader, ended), name="metrics", daemon=True)
    collecting.start()

    def end_measuring() -> None:
        ended.set()
        collecting.join()
        measuring.shutdown()

    def stop() -> None:
        # Beside each other, and not waited for any longer: with the collector away, each would take its whole timeout.
        flushing = [Thread(target=end, daemon=True) for end in (tracing.shutdown, end_measuring)]
        for thread in flushing:
            thread.start()
        until = time.monotonic() + FLUSH_S
        for thread in flushing:
            thread.join(max(0.0, until - time.monotonic()))

    return stop


def _collect(reader: MetricReader, ended: Event) -> None:
    """Export the metrics at every moment that all processes have in common, and once more at the end."""
    place, over = random.random(), False  # noqa: S311 - a place in a queue, not a secret
    while not over:
        over = ended.wait(seconds_until(time.time(), METRICS_EVERY_S, place))
        try:
            reader.collect(timeout_millis=EXPORT_TIMEOUT_S * 1000)
        except MetricsTimeoutError as error:
            log.warning("Metrics were not collected this time: %s", error)
