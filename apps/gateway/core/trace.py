"""Trace context in and out (W3C Trace Context), and spans as OTLP protobuf bytes written by hand.

A span is the gateway's record of a request, so it is made for every one: most of its bytes depend
only on route, method and outcome and are built once (``SpanShape``); the rest is joined around them.
Field numbers are those of opentelemetry/proto/trace/v1/trace.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from struct import Struct
from typing import NamedTuple

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16

KIND_SERVER, KIND_CLIENT = 2, 3
STATUS_ERROR = 2

Value = str | int | bool | float


class Context(NamedTuple):
    """A caller's place in a trace; ids are lower-case hexadecimal."""

    trace_id: bytes
    parent_id: bytes
    sampled: bool


def parse_traceparent(value: bytes) -> Context | None:
    """Read ``traceparent``; None when it must be ignored (Trace Context section 3.2.2.3)."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return Context(trace_id, parent_id, bool(int(flags, 16) & 1))


# -- protobuf --------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """A base-128 varint, least significant group first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_LENGTHS = tuple(varint(number) for number in range(4096))


def length(number: int) -> bytes:
    """The varint of a length; the short ones come from a table."""
    return _LENGTHS[number] if number < 4096 else varint(number)


def message(field: int, body: bytes) -> bytes:
    """A length-delimited field below 16."""
    return bytes((field << 3 | 2,)) + length(len(body)) + body


def key_value(key: str, value: Value) -> bytes:
    """An ``opentelemetry.proto.common.v1.KeyValue``."""
    if isinstance(value, bool):
        any_value = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        any_value = b"\x18" + varint(value & (2**64 - 1))
    elif isinstance(value, float):
        any_value = b"\x21" + _DOUBLE.pack(value)
    else:
        any_value = message(1, value.encode())
    return message(1, key.encode()) + message(2, any_value)


def attribute(key: str, value: Value) -> bytes:
    """One attribute of a span (field 9)."""
    return message(9, key_value(key, value))


_DOUBLE = Struct("<d")
_TIMES = Struct("<BQBQ")
_START, _END = 7 << 3 | 1, 8 << 3 | 1


class Text:
    """A string attribute whose value differs from span to span: the key's bytes are built once."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = message(1, key.encode())

    def encode(self, value: bytes) -> bytes:
        """The attribute with this UTF-8 value."""
        size = len(value)
        any_value = b"\x0a" + length(size)
        inner = size + len(any_value)
        any_length = length(inner)
        total = len(self._key) + 1 + len(any_length) + inner
        return b"".join((b"\x4a", length(total), self._key, b"\x12", any_length, any_value, value))


def span_shape(name: str, kind: int, attributes: Mapping[str, Value], error: str | None = None) -> bytes:
    """The bytes that all spans of one route, method and outcome share. ``error`` sets the status (field 15)."""
    parts = [message(5, name.encode()), bytes((6 << 3, kind))]
    parts += [attribute(key, value) for key, value in attributes.items()]
    if error is not None:
        parts.append(message(15, (message(2, error.encode()) if error else b"") + bytes((3 << 3, STATUS_ERROR))))
    return b"".join(parts)


def span(
    trace_id: bytes, span_id: bytes, parent_id: bytes, shape: bytes, start_ns: int, end_ns: int, more: bytes
) -> bytes:
    """One span as an element of ``ScopeSpans.spans``. Ids are raw bytes, ``parent_id`` empty for a root."""
    body = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span_id,
            b"\x22\x08" + parent_id if parent_id else b"",
            shape,
            _TIMES.pack(_START, start_ns, _END, end_ns),
            more,
        )
    )
    return b"\x12" + length(len(body)) + body


class Envelope:
    """Wraps spans into an ExportTraceServiceRequest for one resource and scope."""

    __slots__ = ("_resource", "_scope")

    def __init__(self, resource: Mapping[str, Value], scope: str, version: str) -> None:
        attributes = b"".join(message(1, key_value(key, value)) for key, value in resource.items())
        self._resource = message(1, attributes)
        self._scope = message(1, message(1, scope.encode()) + message(2, version.encode()))

    def wrap(self, spans: Iterable[bytes]) -> bytes:
        """The request's body."""
        scope_spans = self._scope + b"".join(spans)
        resource_spans = self._resource + b"\x12" + length(len(scope_spans)) + scope_spans
        return b"\x0a" + length(len(resource_spans)) + resource_spans
