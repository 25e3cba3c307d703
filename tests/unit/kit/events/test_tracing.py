"""The span in which an event is handled."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from services.kit.events import tracing
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.transport.base import Delivery

TRACE, SPAN = "ab" * 16, "cd" * 8


def delivery(traceparent: str) -> Delivery:
    event = CloudEvent("1", "t.thing.done", "tests", 0.0, {}, traceparent=traceparent)
    return Delivery("t", 3, "5-1", 1, b"", event)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    return exporter


@pytest.mark.parametrize("said", [f"00-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-of-a-later-version"])
def test_it_is_a_child_of_the_span_that_recorded_the_event_and_the_current_one(
    ended: InMemorySpanExporter, said: str
) -> None:
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))):
        with tracing.processing(delivery(said), "redis", "g") as span:
            assert trace.get_current_span() is span
        assert trace.get_current_span().get_span_context().trace_id == 1
    [one] = ended.get_finished_spans()
    assert one.parent is not None and one.context is not None and one.attributes is not None
    assert f"{one.context.trace_id:032x}" == TRACE and f"{one.parent.span_id:016x}" == SPAN and one.parent.is_remote
    assert one.attributes["messaging.destination.partition.id"] == "3"


def test_an_event_that_was_not_sampled_is_not_here_either(ended: InMemorySpanExporter) -> None:
    with tracing.processing(delivery(f"00-{TRACE}-{SPAN}-00"), "redis", "g") as span:
        assert f"{span.get_span_context().trace_id:032x}" == TRACE, "and is passed on"
    assert ended.get_finished_spans() == ()


@pytest.mark.parametrize(
    "said", ["", "tests", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-x"]
)
def test_an_event_that_tells_no_span_begins_a_trace(ended: InMemorySpanExporter, said: str) -> None:
    with tracing.processing(delivery(said), "redis", "g"):
        pass
    [one] = ended.get_finished_spans()
    assert one.parent is None


def test_what_leaves_the_block_went_wrong(ended: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no"), tracing.processing(delivery(""), "redis", "g"):
        raise ValueError("no")
    [one] = ended.get_finished_spans()
    assert one.status.status_code is StatusCode.ERROR and one.events[0].name == "exception"
