"""OTLP traces to one block of ``otel_traces`` in ClickHouse's Native format. Pure; ``now`` is an argument.

A span that can't be stored (no valid id, a time outside what is kept) is left out and counted, and the
rest of its request is taken: OTLP calls that a partial success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import attrgetter
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from apps.telemetry.collector import native
from apps.telemetry.collector.attributes import (
    LONGEST_KEY,
    LONGEST_VALUE,
    MOST_ATTRIBUTES,
    Counter,
    Malformed,
    Origins,
    Pair,
    Pairs,
    Scopes,
)
from apps.telemetry.collector.messages import TraceRequest

DAY = 86_400 * 10**9
MOST_EVENTS = 128
KINDS = tuple(native.text(kind) for kind in ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"))
CODES = tuple(native.text(code) for code in ("Unset", "Ok", "Error"))
ZERO_TRACE, ZERO_SPAN = bytes(16), bytes(8)
MAP = "Map(String, String)"

_row = attrgetter(
    *("trace_id", "span_id", "parent_span_id", "name", "kind", "start", "end", "status", "trace_state"),
    *("attributes", "events", "links"),
)


@dataclass(slots=True)
class Block:
    """Rows for one table, encoded; ``data`` is empty when ``rows`` is 0."""

    table: str
    rows: int
    data: bytes


@dataclass(slots=True)
class Decoded:
    """What one request holds."""

    blocks: list[Block] = field(default_factory=list)
    accepted: int = 0
    rejected: int = 0
    reason: str = ""
    """Why the first rejected one was."""

    def reject(self, count: int, reason: str) -> None:
        """Count ``count`` left out; the first reason is the one told."""
        self.rejected += count
        self.reason = self.reason or reason


class _Names(dict[str, bytes]):
    def __missing__(self, name: str) -> bytes:
        if len(self) >= 10_000:
            self.clear()
        cell = self[name] = native.text(name[:1024])
        return cell


class _Kinds(dict[int, bytes]):
    def __missing__(self, kind: int) -> bytes:
        return KINDS[0]


class _Statuses(dict[bytes, Pair]):
    def __missing__(self, data: bytes) -> Pair:
        try:
            status = Status.FromString(data)
        except DecodeError:
            raise Malformed("a status is not valid") from None
        code = CODES[status.code] if 0 <= status.code < len(CODES) else CODES[0]
        pair = code, native.text(status.message[:LONGEST_VALUE])
        if len(data) <= 64:
            if len(self) >= 1000:
                self.clear()
            self[data] = pair
        return pair


class TraceDecoder:
    """Holds the caches; one per process and thread."""

    def __init__(self, *, keep_days: int = 7) -> None:
        self.counter = Counter()
        self._keep = keep_days * DAY
        self._pairs = Pairs(self.counter)
        self._origins = Origins(self._pairs)
        self._scopes = Scopes()
        self._names = _Names()
        self._kinds = _Kinds(enumerate(KINDS))
        self._statuses = _Statuses()

    def decode(self, body: bytes, now: float) -> Decoded:
        """Read one ExportTraceServiceRequest; Malformed when it isn't one. ``now``: wall-clock seconds."""
        try:
            request = TraceRequest.FromString(body)
        except DecodeError:
            raise Malformed("the body is not a valid ExportTraceServiceRequest") from None
        decoded = Decoded()
        columns = _Columns()
        for group in request.resource_spans:
            origin = self._origins[group.resource]
            for scope_spans in group.scope_spans:
                rows = self._checked(list(map(_row, scope_spans.spans)), int(now * 1e9), decoded)
                if not rows:
                    continue
                scope = self._scopes[scope_spans.scope]
                columns.origins.append((len(rows), origin.service, origin.count, origin.keys, origin.values, *scope))
                self._add(columns, rows)
        if columns.rows:
            decoded.blocks.append(Block("otel_traces", columns.rows, columns.block()))
            decoded.accepted = columns.rows
        return decoded

    def _checked(self, rows: list[Any], now: int, decoded: Decoded) -> list[Any]:
        """``rows`` without those that can't be stored."""
        if not rows:
            return rows
        oldest, newest = now - self._keep, now + DAY
        ids, starts = {(len(row[0]), len(row[1]), len(row[2])) for row in rows}, [row[5] for row in rows]
        sound = ids <= {(16, 8, 8), (16, 8, 0)} and min(starts) >= oldest and max(starts) <= newest
        if sound and not any(row[0] == ZERO_TRACE or row[1] == ZERO_SPAN for row in rows):
            return rows
        kept = []
        for row in rows:
            if len(row[0]) != 16 or row[0] == ZERO_TRACE:
                decoded.reject(1, "a trace id must be 16 bytes, not all zero")
            elif len(row[1]) != 8 or row[1] == ZERO_SPAN:
                decoded.reject(1, "a span id must be 8 bytes, not all zero")
            elif len(row[2]) not in (0, 8):
                decoded.reject(1, "a parent span id must be 8 bytes, or none")
            elif not oldest <= row[5] <= newest:
                days = self._keep // DAY
                decoded.reject(1, f"a start time must lie within the {days} days kept, and not over a day ahead")
            else:
                kept.append(row)
        return kept

    def _add(self, columns: _Columns, rows: list[Any]) -> None:
        columns.rows += len(rows)
        cells = zip(*rows, strict=True)
        trace_ids, span_ids, parents, names, kinds, starts, ends, statuses, states, attributes, events, links = cells
        columns.trace_ids += trace_ids
        columns.span_ids += span_ids
        columns.parents += parents
        columns.starts += starts
        columns.durations += [end - start if end > start else 0 for start, end in zip(starts, ends, strict=True)]
        columns.names += map(self._names.__getitem__, names)
        columns.kinds += map(self._kinds.__getitem__, kinds)
        columns.statuses += map(self._statuses.__getitem__, statuses)
        columns.states += states
        counts = list(map(len, attributes))
        if max(counts) > MOST_ATTRIBUTES:
            attributes = tuple(items[:MOST_ATTRIBUTES] for items in attributes)
            self.counter.left_out += sum(counts) - sum(map(len, attributes))
            counts = list(map(len, attributes))
        columns.attribute_counts += counts
        columns.attributes += map(self._pairs.__getitem__, chain.from_iterable(attributes))
        columns.events += map(self._events, events) if any(events) else repeat((), len(rows))
        columns.links += map(self._links, links) if any(links) else repeat((), len(rows))

    def _events(self, events: Sequence[bytes]) -> tuple[_Event, ...]:
        self.counter.left_out += max(0, len(events) - MOST_EVENTS)
        try:
            parsed = [Span.Event.FromString(data) for data in events[:MOST_EVENTS]]
        except DecodeError:
            raise Malformed("a span event is not valid") from None
        return tuple(
            (min(event.time_unix_nano, 2**63 - 1), native.text(event.name[:1024]), self._pairs.parsed(event.attributes))
            for event in parsed
        )

    def _links(self, links: Sequence[bytes]) -> tuple[_Link, ...]:
        self.counter.left_out += max(0, len(links) - MOST_EVENTS)
        try:
            parsed = [Span.Link.FromString(data) for data in links[:MOST_EVENTS]]
        except DecodeError:
            raise Malformed("a span link is not valid") from None
        return tuple(
            (
                native.text(link.trace_id.hex()[:64]),
                native.text(link.span_id.hex()[:64]),
                native.text(link.trace_state[:LONGEST_VALUE]),
                self._pairs.parsed(link.attributes),
            )
            for link in parsed
        )


_Event = tuple[int, bytes, list[Pair]]
_Link = tuple[bytes, bytes, bytes, list[Pair]]


class _Columns:
    """One request's spans, column by column, until they are a block."""

    def __init__(self) -> None:
        self.rows = 0
        self.origins: list[tuple[int, bytes, int, bytes, bytes, bytes, bytes]] = []
        self.trace_ids: list[bytes] = []
        self.span_ids: list[bytes] = []
        self.parents: list[bytes] = []
        self.names: list[bytes] = []
        self.kinds: list[bytes] = []
        self.starts: list[int] = []
        self.durations: list[int] = []
        self.statuses: list[Pair] = []
        self.states: list[str] = []
        self.attribute_counts: list[int] = []
        self.attributes: list[Pair] = []
        self.events: list[tuple[_Event, ...]] = []
        self.links: list[tuple[_Link, ...]] = []

    def block(self) -> bytes:
        """The columns in Native format. Those that are empty throughout are left to their defaults."""
        origins = self.origins
        codes, messages = zip(*self.statuses, strict=True)
        columns = [
            ("Timestamp", "DateTime64(9)", native.unsigned(self.starts)),
            # A length of 32 is the byte 0x20 and one of 16 is 0x10: the separators are the lengths.
            ("TraceId", "String", b" " + b"".join(self.trace_ids).hex(" ", 16).encode()),
            ("SpanId", "String", b"\x10" + b"".join(self.span_ids).hex("\x10", 8).encode()),
            ("ParentSpanId", "String", _parents(self.parents)),
            ("SpanName", "String", b"".join(self.names)),
            ("SpanKind", "String", b"".join(self.kinds)),
            ("ServiceName", "String", b"".join([item[1] * item[0] for item in origins])),
            (
                "ResourceAttributes",
                MAP,
                native.offsets([item[2] for item in origins for _ in range(item[0])])
                + b"".join([item[3] * item[0] for item in origins])
                + b"".join([item[4] * item[0] for item in origins]),
            ),
            ("ScopeName", "String", b"".join([item[5] * item[0] for item in origins])),
            ("ScopeVersion", "String", b"".join([item[6] * item[0] for item in origins])),
            ("SpanAttributes", MAP, native.offsets(self.attribute_counts) + _cells(self.attributes)),
            ("Duration", "UInt64", native.unsigned(self.durations)),
            ("StatusCode", "String", b"".join(codes)),
            ("StatusMessage", "String", b"".join(messages)),
        ]
        if any(self.states):
            columns.append(("TraceState", "String", native.strings(state[:LONGEST_KEY] for state in self.states)))
        if any(self.events):
            columns += _nested_events(self.events)
        if any(self.links):
            columns += _nested_links(self.links)
        return native.block(self.rows, columns)


def _parents(parents: list[bytes]) -> bytes:
    if all(parents) and ZERO_SPAN not in parents:
        return b"\x10" + b"".join(parents).hex("\x10", 8).encode()
    return b"".join(
        [b"\x10" + parent.hex().encode() if parent and parent != ZERO_SPAN else b"\0" for parent in parents]
    )


def _cells(pairs: list[Pair]) -> bytes:
    if not pairs:
        return b""
    keys, values = zip(*pairs, strict=True)
    return b"".join(keys) + b"".join(values)


def _nested_map(counts: bytes, maps: list[list[Pair]]) -> bytes:
    return counts + native.offsets(map(len, maps)) + _cells([pair for cells in maps for pair in cells])


def _nested_events(rows: list[tuple[_Event, ...]]) -> list[tuple[str, str, bytes]]:
    counts = native.offsets(map(len, rows))
    events = [event for row in rows for event in row]
    return [
        ("Events.Timestamp", "Array(DateTime64(9))", counts + native.unsigned(event[0] for event in events)),
        ("Events.Name", "Array(String)", counts + b"".join([event[1] for event in events])),
        ("Events.Attributes", f"Array({MAP})", _nested_map(counts, [event[2] for event in events])),
    ]


def _nested_links(rows: list[tuple[_Link, ...]]) -> list[tuple[str, str, bytes]]:
    counts = native.offsets(map(len, rows))
    links = [link for row in rows for link in row]
    return [
        ("Links.TraceId", "Array(String)", counts + b"".join([link[0] for link in links])),
        ("Links.SpanId", "Array(String)", counts + b"".join([link[1] for link in links])),
        ("Links.TraceState", "Array(String)", counts + b"".join([link[2] for link in links])),
        ("Links.Attributes", f"Array({MAP})", _nested_map(counts, [link[3] for link in links])),
    ]
