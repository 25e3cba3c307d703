"""Spans of events: whoever records one, and whoever handles it, in one trace (OpenTelemetry's messaging names)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from functools import lru_cache
from types import TracebackType
from typing import Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .transport.base import Delivery

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_USUAL: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""``traceparent`` of the one version there is (W3C Trace Context section 3.2)."""
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


class Processing:
    """A span that is the current one within a block, and ends with it. What leaves the block went wrong."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Context]

    def __enter__(self) -> Span:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if isinstance(error, Exception):
            failed(self._span, error)
        self._span.end()


def processing(delivery: Delivery, system: str, group: str) -> Processing:
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
    parent = recorded_in(event.traceparent)
    return Processing(_tracer.start_span(f"process {event.type}", parent, SpanKind.CONSUMER, attributes))


@lru_cache(maxsize=1024)
def recorded_in(traceparent: str) -> Context:
    """Nothing but the event's span, by its ``traceparent``, whatever is going on here. Events that were published
    together have one."""
    found = _USUAL.fullmatch(traceparent)
    if found is None:
        return _PROPAGATOR.extract({"traceparent": traceparent}, Context())
    # The library's own reading takes as long as all else that is done for an event here.
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    remote = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())


def failed(span: Span, error: Exception) -> None:
    """The handler did not succeed."""
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, str(error)))
