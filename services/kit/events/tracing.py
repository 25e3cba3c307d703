"""Spans of events: whoever records one, and whoever handles it, in one trace (OpenTelemetry's messaging names)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .transport.base import Delivery

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_tracer = trace.get_tracer(__name__)


@contextmanager
def recording(event_type: str, event_id: str) -> Iterator[str]:
    """A PRODUCER span under the caller's; gives the ``traceparent`` that the event carries."""
    attributes = {
        "messaging.operation.type": "send",
        "messaging.message.id": event_id,
        "cloudevents.event_type": event_type,
    }
    with _tracer.start_as_current_span(f"publish {event_type}", kind=SpanKind.PRODUCER, attributes=attributes):
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        yield carrier.get("traceparent", "")


@contextmanager
def processing(delivery: Delivery, system: str, group: str) -> Iterator[Span]:
    """A CONSUMER span, child of the one in which the event was recorded; ``failed`` says that it went wrong."""
    event = delivery.event
    assert event is not None  # noqa: S101 - odd entries are not processed
    attributes = {
        "messaging.system": delivery.broker or system,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": delivery.topic,
        "messaging.destination.partition.id": str(delivery.partition),
        "messaging.consumer.group.name": group,
        "messaging.message.id": event.id,
        "cloudevents.event_type": event.type,
    }
    parent = _PROPAGATOR.extract({"traceparent": event.traceparent})
    with _tracer.start_as_current_span(f"process {event.type}", parent, SpanKind.CONSUMER, attributes) as span:
        yield span


def failed(span: Span, error: Exception) -> None:
    """The handler did not succeed."""
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, str(error)))
