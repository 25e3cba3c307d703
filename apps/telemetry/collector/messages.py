"""OTLP trace messages that leave their small submessages as bytes. Pure.

The same wire format as opentelemetry/proto/trace/v1/trace.proto (same field numbers), but resource,
scope, attributes, status, events and links are declared ``bytes``: protobuf encodes a submessage and a
byte string alike. Attributes repeat from span to span, so their bytes are looked up in a cache and
parsed only the first time; that is most of the difference between 1.5 and 3 microseconds a span.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_BYTES, _STRING, _MESSAGE = _Field.TYPE_BYTES, _Field.TYPE_STRING, _Field.TYPE_MESSAGE
_INT32, _FIXED64 = _Field.TYPE_INT32, _Field.TYPE_FIXED64

_SHAPES: dict[str, list[tuple[int, str, Any, bool, str]]] = {
    "Request": [(1, "resource_spans", _MESSAGE, True, "ResourceSpans")],
    "ResourceSpans": [(1, "resource", _BYTES, False, ""), (2, "scope_spans", _MESSAGE, True, "ScopeSpans")],
    "ScopeSpans": [(1, "scope", _BYTES, False, ""), (2, "spans", _MESSAGE, True, "Span")],
    "Span": [
        (1, "trace_id", _BYTES, False, ""),
        (2, "span_id", _BYTES, False, ""),
        (3, "trace_state", _STRING, False, ""),
        (4, "parent_span_id", _BYTES, False, ""),
        (5, "name", _STRING, False, ""),
        (6, "kind", _INT32, False, ""),
        (7, "start", _FIXED64, False, ""),
        (8, "end", _FIXED64, False, ""),
        (9, "attributes", _BYTES, True, ""),
        (11, "events", _BYTES, True, ""),
        (13, "links", _BYTES, True, ""),
        (15, "status", _BYTES, False, ""),
    ],
}


def _build() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="missioncontrol/lazy.proto", package="lazy", syntax="proto3")
    for name, fields in _SHAPES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated, of in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            added = message.field.add(number=number, name=field, type=kind, label=label)
            if of:
                added.type_name = f".lazy.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lazy.Request"))


TraceRequest = _build()
"""ExportTraceServiceRequest, read lazily."""
