from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from apps.gateway.core.trace import Envelope, Text, key_value, parse_traceparent, span, span_shape

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [(f"00-{TRACE}-{SPAN}-01", True), (f"00-{TRACE}-{SPAN}-00", False), (f"cc-{TRACE}-{SPAN}-03-what-comes", True)],
)
def test_traceparents_are_read(value: str, sampled: bool) -> None:
    context = parse_traceparent(value.encode())
    assert context is not None
    assert (context.trace_id.decode(), context.parent_id.decode(), context.sampled) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_malformed_traceparents_are_ignored(value: str) -> None:
    assert parse_traceparent(value.encode()) is None


def test_a_span_written_by_hand_reads_back_by_the_schema() -> None:
    shape = span_shape("GET /x", 2, {"http.request.method": "GET", "n": 5, "ok": True, "f": 0.5}, error="broke")
    path = Text("url.path")
    data = span(
        bytes.fromhex(TRACE), bytes.fromhex(SPAN), b"\x01" * 8, shape, 10, 20, path.encode(b"/x/" + b"y" * 5000)
    )
    root = span(bytes.fromhex(TRACE), b"\x02" * 8, b"", shape, 10, 20, b"")
    body = Envelope({"service.name": "gateway"}, "scope", "1").wrap([data, root])
    request = ExportTraceServiceRequest.FromString(body)
    resource = request.resource_spans[0]
    assert resource.resource.attributes[0].value.string_value == "gateway"
    scoped = resource.scope_spans[0]
    assert (scoped.scope.name, scoped.scope.version, len(scoped.spans)) == ("scope", "1", 2)
    first, second = scoped.spans
    assert (first.trace_id.hex(), first.span_id.hex(), first.parent_span_id) == (TRACE, SPAN, b"\x01" * 8)
    assert (first.name, first.kind, first.start_time_unix_nano, first.end_time_unix_nano) == ("GET /x", 2, 10, 20)
    assert (first.status.code, first.status.message) == (2, "broke")
    values = {each.key: each.value for each in first.attributes}
    assert values["n"].int_value == 5 and values["ok"].bool_value and values["f"].double_value == 0.5
    assert values["url.path"].string_value == "/x/" + "y" * 5000
    assert second.parent_span_id == b"" and not request.FindInitializationErrors()


@given(
    st.text(max_size=300),
    st.one_of(st.text(max_size=300), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False)),
)
def test_every_attribute_reads_back(key: str, value: str | int | bool | float) -> None:
    read = KeyValue.FromString(key_value(key, value))
    assert read.key == key and getattr(read.value, read.value.WhichOneof("value")) == value
