"""OTLP spans to columns: read lazily, yet always what protobuf itself would have read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from apps.telemetry.collector import attributes, native
from apps.telemetry.collector.attributes import Counter, Malformed, Pairs, as_text
from apps.telemetry.collector.decode import TraceDecoder

NOW = 1_800_000_000.0


def one(value: Any) -> KeyValue:
    item = KeyValue(key="key")
    item.value.CopyFrom(value)
    return item


values = st.recursive(
    st.one_of(
        st.text(max_size=200).map(lambda text: AnyValue(string_value=text)),
        st.integers(-(2**63), 2**63 - 1).map(lambda number: AnyValue(int_value=number)),
        st.floats(allow_nan=False).map(lambda number: AnyValue(double_value=number)),
        st.booleans().map(lambda flag: AnyValue(bool_value=flag)),
        st.binary(max_size=20).map(lambda data: AnyValue(bytes_value=data)),
        st.just(AnyValue()),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: AnyValue(array_value={"values": items})),
    max_leaves=5,
)


@given(st.text(max_size=200), values)
def test_a_cut_attribute_is_what_protobuf_reads(key: str, value: AnyValue) -> None:
    item = KeyValue(key=key, value=value)
    pairs = Pairs(Counter())
    assert pairs[item.SerializeToString()] == pairs.encode(key, value)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(data: bytes) -> None:
    pairs = Pairs(Counter())
    try:
        parsed = KeyValue.FromString(data)
    except DecodeError:
        with pytest.raises(Malformed):
            pairs[data]
    else:
        assert pairs[data] == pairs.encode(parsed.key, parsed.value)


def test_values_as_text() -> None:
    assert as_text(AnyValue(bool_value=True)) == "true"
    assert as_text(AnyValue(int_value=-(2**63))) == str(-(2**63))
    assert as_text(AnyValue(bytes_value=b"\x00\xff")) == base64.b64encode(b"\x00\xff").decode()
    nested = AnyValue(
        kvlist_value={"values": [one(AnyValue(array_value={"values": [AnyValue(int_value=1), AnyValue()]}))]}
    )
    assert json.loads(as_text(nested)) == {"key": [1, None]}
    assert as_text(AnyValue()) == ""


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "CACHE_ENTRIES", 100)
    pairs = Pairs(Counter())
    for number in range(1000):
        assert pairs[one(AnyValue(int_value=number)).SerializeToString()][1] == native.text(str(number))
        assert len(pairs) <= 100


def request(count: int = 3) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for number in range(count):
        scope.spans.add(
            trace_id=bytes([1] * 16),
            span_id=bytes([number + 1] * 8),
            parent_span_id=b"" if number == 0 else bytes([1] * 8),
            name="op",
            start_time_unix_nano=int(NOW * 1e9),
            end_time_unix_nano=int(NOW * 1e9) + number,
        )
    return message


def test_ids_are_hexadecimal_strings_in_native_format() -> None:
    block = TraceDecoder().decode(request().SerializeToString(), NOW).blocks[0]
    ids = b"".join(native.text((bytes([number] * 8)).hex()) for number in (1, 2, 3))
    assert native.text("SpanId") + native.text("String") + ids in block.data
    assert native.text("TraceId") + native.text("String") + native.text("01" * 16) * 3 in block.data
    parents = native.text("") + native.text("01" * 8) * 2
    assert native.text("ParentSpanId") + native.text("String") + parents in block.data


def test_a_zero_parent_is_no_parent() -> None:
    message = request(2)
    message.resource_spans[0].scope_spans[0].spans[0].parent_span_id = bytes(8)
    block = TraceDecoder().decode(message.SerializeToString(), NOW).blocks[0]
    assert native.text("ParentSpanId") + native.text("String") + native.text("") + native.text("01" * 8) in block.data


def test_rejected_spans_are_counted_and_the_first_reason_told() -> None:
    message = request(4)
    spans = message.resource_spans[0].scope_spans[0].spans
    spans[1].trace_id = b"x"
    spans[2].span_id = b""
    decoded = TraceDecoder().decode(message.SerializeToString(), NOW)
    assert (decoded.accepted, decoded.rejected) == (2, 2)
    assert "trace id" in decoded.reason
    assert decoded.blocks[0].rows == 2


def test_nothing_to_store_is_no_block() -> None:
    message = request(1)
    message.resource_spans[0].scope_spans[0].spans[0].trace_id = b""
    decoded = TraceDecoder().decode(message.SerializeToString(), NOW)
    assert decoded.blocks == []
    assert decoded.rejected == 1


@given(st.binary(max_size=200))
def test_any_body_is_decoded_or_malformed(body: bytes) -> None:
    try:
        TraceDecoder().decode(body, NOW)
    except Malformed:
        pass


def test_a_span_without_a_service_is_called_unknown() -> None:
    block = TraceDecoder().decode(request(1).SerializeToString(), NOW).blocks[0]
    assert native.text("unknown_service") in block.data
