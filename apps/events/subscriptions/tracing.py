"""The span of one delivery to a webhook, in the trace of its event (OpenTelemetry's names for messages and HTTP)."""

from __future__ import annotations

from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from apps.events.subscriptions.core import Outcome, Verdict
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.tracing import recorded_in

_tracer = trace.get_tracer(__name__)


def delivering(event: CloudEvent, subscription: str, url: str) -> Span:
    """A CLIENT span, child of the one in which ``event`` was recorded; ``ended`` ends it. Of ``url`` it has the host
    alone: the rest may be a secret."""
    attributes: dict[str, str | int] = {
        "messaging.system": "mission-control",
        "messaging.operation.type": "send",
        "messaging.operation.name": "deliver",
        "messaging.consumer.group.name": subscription,
        "messaging.message.id": event.id,
        "cloudevents.event_type": event.type,
        "http.request.method": "POST",
        "server.address": urlsplit(url).hostname or "",
    }
    return _tracer.start_span(f"deliver {event.type}", recorded_in(event.traceparent), SpanKind.CLIENT, attributes)


def traceparent(span: Span) -> str:
    """What the endpoint goes on from (W3C Trace Context section 3.2); nothing without a trace."""
    said = span.get_span_context()
    return f"00-{said.trace_id:032x}-{said.span_id:016x}-{int(said.trace_flags):02x}" if said.is_valid else ""


def ended(span: Span, outcome: Outcome) -> None:
    """What came of the delivery."""
    if outcome.status is not None:
        span.set_attribute("http.response.status_code", outcome.status)
    if outcome.verdict is not Verdict.TAKEN:
        span.set_attribute("error.type", outcome.reason)
        span.set_status(Status(StatusCode.ERROR, outcome.error))
    span.end()
