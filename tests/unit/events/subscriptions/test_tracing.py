"""Each delivery to a webhook is a span of its event's trace, and the endpoint goes on from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from apps.events.subscriptions import sending, tracing
from apps.lib.addresses import Guard, Policy
from services.kit.events.cloudevent import CloudEvent
from tests.webhook_endpoint import Endpoint

TRACE, SPAN = "ab" * 16, "cd" * 8


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    return exporter


async def test_a_delivery_is_a_span_of_its_events_trace(ended: InMemorySpanExporter, tmp_path: Path) -> None:
    event = CloudEvent("1", "t.thing.done", "tests", 0.0, {}, traceparent=f"00-{TRACE}-{SPAN}-01")
    with Endpoint(tmp_path) as there:
        async with sending.session("test", Guard(Policy())) as http:
            for path in ("/ok?token=hidden", "/status/503"):
                await sending.deliver(http, event, sending.Endpoint(there.url(path), (b"k" * 24,), name="hook"))
        requests = there.received()
    taken, busy = ended.get_finished_spans()
    for span, request in ((taken, requests[0]), (busy, requests[1])):
        assert span.parent is not None and span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE and f"{span.parent.span_id:016x}" == SPAN
        assert request["headers"]["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
        assert '"traceparent":"00-' + TRACE in request["body"], "the event says where it was recorded"
    assert taken.name == "deliver t.thing.done" and taken.attributes is not None and busy.attributes is not None
    assert taken.attributes["messaging.consumer.group.name"] == "hook" and "hidden" not in str(taken.attributes)
    assert taken.status.status_code is StatusCode.UNSET and taken.attributes["http.response.status_code"] == 200
    assert busy.status.status_code is StatusCode.ERROR and busy.attributes["error.type"] == "busy"


async def test_one_that_fails_to_connect_is_a_span_too(ended: InMemorySpanExporter) -> None:
    event = CloudEvent("1", "t.thing.done", "tests", 0.0, {})
    async with sending.session("test", Guard(Policy())) as http:
        await sending.deliver(http, event, sending.Endpoint("http://169.254.169.254/", (b"k" * 24,)))
    [span] = ended.get_finished_spans()
    assert span.parent is None and span.attributes is not None and span.attributes["error.type"] == "address"
