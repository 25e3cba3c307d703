"""ClickHouse's Native format, written by hand: columns of bytes, no per-cell objects. Pure.

Only what OTLP needs. Columns are sent under plain types; ClickHouse casts String to LowCardinality(String)
and so on as it reads. Blocks follow one another in one INSERT, so every request is encoded alone and a
batch is nothing but its blocks joined.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate


def varint(number: int) -> bytes:
    """LEB128, as ClickHouse writes lengths."""
    if number < 128:
        return bytes((number,))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(value: str) -> bytes:
    """One String cell."""
    data = value.encode("utf-8", "replace")
    return varint(len(data)) + data


def strings(values: Iterable[str]) -> bytes:
    """A String column."""
    return b"".join([text(value) for value in values])


def unsigned(values: Iterable[int]) -> bytes:
    """A UInt64 column; also DateTime64(9) in nanoseconds since the epoch."""
    return array("Q", values).tobytes()


def signed32(values: Iterable[int]) -> bytes:
    """An Int32 column."""
    return array("i", values).tobytes()


def unsigned32(values: Iterable[int]) -> bytes:
    """A UInt32 column."""
    return array("I", values).tobytes()


def floats(values: Iterable[float]) -> bytes:
    """A Float64 column."""
    return array("d", values).tobytes()


def bools(values: Iterable[bool]) -> bytes:
    """A Bool column."""
    return bytes(values)


def offsets(counts: Iterable[int]) -> bytes:
    """What precedes the elements of an Array or Map column: where each row's elements end."""
    return array("Q", accumulate(counts)).tobytes()


def block(rows: int, columns: Sequence[tuple[str, str, bytes]]) -> bytes:
    """One block of ``rows`` rows; columns are name, type and encoded cells."""
    parts = [varint(len(columns)), varint(rows)]
    for name, kind, data in columns:
        parts += (text(name), text(kind), data)
    return b"".join(parts)
