"""Attributes as ClickHouse map cells, with bounds and a cache. Pure.

A ``Pairs`` maps the wire bytes of one KeyValue to its encoded key and value. It is bounded: when full it
is emptied, which costs one slow batch in a few hundred thousand attributes and no bookkeeping per hit.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from apps.telemetry.collector import native

MOST_ATTRIBUTES = 128
LONGEST_KEY = 256
LONGEST_VALUE = 8192
CACHE_ENTRIES = 30_000
LONGEST_RESOURCE = 4096
LONGEST_CACHED = 128
"""Bytes. Times CACHE_ENTRIES, and again for the cells: 12 MB at most."""

Pair = tuple[bytes, bytes]


class Malformed(ValueError):
    """The bytes are not the OTLP message they should be."""


class Counter:
    """What the bounds cost: values cut and attributes left out, since the start."""

    def __init__(self) -> None:
        self.truncated = 0
        self.left_out = 0


def as_text(value: Any) -> str:
    """An AnyValue as text: strings as they are, bytes as base64, lists and maps as JSON."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "int_value":
        return str(value.int_value)
    if kind is None:
        return ""
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: _plain(item.value) for item in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return None if kind is None else getattr(value, kind)


class Pairs(dict[bytes, Pair]):
    """KeyValue bytes → encoded key and value."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __missing__(self, data: bytes) -> Pair:
        pair = _cut(data) or self._read(data)
        if len(data) <= LONGEST_CACHED:
            if len(self) >= CACHE_ENTRIES:
                self.clear()
            self[data] = pair
        return pair

    def _read(self, data: bytes) -> Pair:
        try:
            parsed = KeyValue.FromString(data)
        except DecodeError:
            raise Malformed("an attribute is not a valid KeyValue") from None
        return self.encode(parsed.key, parsed.value)

    def encode(self, key: str, value: Any) -> Pair:
        """One parsed attribute."""
        words = as_text(value)
        if len(words) > LONGEST_VALUE or len(key) > LONGEST_KEY:
            self._counter.truncated += 1
            words, key = words[:LONGEST_VALUE], key[:LONGEST_KEY]
        return native.text(key), native.text(words)

    def parsed(self, attributes: Any) -> list[Pair]:
        """A repeated KeyValue that is already parsed, within the bounds."""
        if len(attributes) > MOST_ATTRIBUTES:
            self._counter.left_out += len(attributes) - MOST_ATTRIBUTES
            attributes = attributes[:MOST_ATTRIBUTES]
        return [self.encode(item.key, item.value) for item in attributes]


def _cut(data: bytes) -> Pair | None:
    """A short ASCII key with a short ASCII string or a small integer, cut from the wire without parsing.

    Protobuf and ClickHouse both write a string as its LEB128 length and its bytes, so a slice of the one is
    a cell of the other. Anything else (order, length, kind) is None: protobuf itself reads it then.
    """
    size = len(data)
    if size < 6 or data[0] != 0x0A or data[1] > 127:
        return None
    key_end = data[1] + 2
    value = key_end + 3
    if value >= size or data[key_end] != 0x12 or data[key_end + 1] != size - key_end - 2:
        return None
    kind = data[key_end + 2]
    if kind == 0x0A:
        if data[value] == size - value - 1 and data.isascii():
            return data[1:key_end], data[value:]
    elif kind == 0x18:
        number = _small(data[value:])
        key = data[1:key_end]
        if number is not None and key.isascii():
            words = b"%d" % number
            return key, bytes((len(words),)) + words
    return None


def _small(varint: bytes) -> int | None:
    """A varint of one to three bytes, exactly; None for any other."""
    size = len(varint)
    if size == 3 and varint[0] > 127 and varint[1] > 127 and varint[2] < 128:
        return varint[0] & 127 | (varint[1] & 127) << 7 | varint[2] << 14
    if size == 2 and varint[0] > 127 and varint[1] < 128:
        return varint[0] & 127 | varint[1] << 7
    return varint[0] if size == 1 and varint[0] < 128 else None


class Origin:
    """A resource, encoded once: its service's name and its attributes."""

    __slots__ = ("count", "keys", "service", "values")

    def __init__(self, attributes: Any, pairs: Pairs) -> None:
        cells = pairs.parsed(attributes)
        self.count = len(cells)
        self.keys = b"".join([key for key, _ in cells])
        self.values = b"".join([value for _, value in cells])
        name = next((as_text(item.value) for item in attributes if item.key == "service.name"), "")
        self.service = native.text(name[:LONGEST_KEY] or "unknown_service")


class Origins(dict[bytes, Origin]):
    """Resource bytes → Origin."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self._pairs = pairs

    def __missing__(self, data: bytes) -> Origin:
        try:
            origin = Origin(Resource.FromString(data).attributes, self._pairs)
        except DecodeError:
            raise Malformed("a resource is not valid") from None
        if len(data) <= LONGEST_RESOURCE:
            if len(self) >= 1000:
                self.clear()
            self[data] = origin
        return origin


class Scopes(dict[bytes, Pair]):
    """InstrumentationScope bytes → encoded name and version."""

    def __missing__(self, data: bytes) -> Pair:
        try:
            scope = InstrumentationScope.FromString(data)
        except DecodeError:
            raise Malformed("a scope is not valid") from None
        if len(self) >= 1000:
            self.clear()
        pair = self[data] = native.text(scope.name[:LONGEST_KEY]), native.text(scope.version[:LONGEST_KEY])
        return pair


__all__ = ["AnyValue", "Counter", "Malformed", "Origin", "Origins", "Pair", "Pairs", "Scopes", "as_text"]
