"""One OTLP request from body to answer: unpack, recognise, decode, store. Knows OTLP's answers, not HTTP servers."""

from __future__ import annotations

import asyncio
from collections import Counter as Tallies
from dataclasses import dataclass, field

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from apps.lib import clock
from apps.lib.proof import Sender
from apps.telemetry import coding
from apps.telemetry.collector.attributes import Malformed
from apps.telemetry.collector.buffer import Buffer, Full, Rejected
from apps.telemetry.collector.decode import Decoded, TraceDecoder
from apps.telemetry.collector.exports import Export, Exports, digest
from apps.telemetry.collector.metrics import MetricDecoder
from services.kit.problem import Problem, Refused


@dataclass(slots=True)
class Counts:
    """What came in, since the start."""

    requests: int = 0
    received_bytes: int = 0
    accepted: Tallies[str] = field(default_factory=Tallies)
    """Spans and points taken for storing, by signal."""
    rejected: Tallies[str] = field(default_factory=Tallies)
    """Spans and points left out as invalid, by signal."""
    refused: Tallies[str] = field(default_factory=Tallies)
    """Requests refused, by failure."""


class Ingest:
    """Decoders with their caches, in front of the buffer. One per event loop."""

    def __init__(self, buffer: Buffer, *, unpacked_limit: int, patience: float, keep_days: int = 7) -> None:
        self.counts = Counts()
        self.buffer = buffer
        self.exports = Exports()
        self._limit = unpacked_limit
        self._patience = patience
        self.traces = TraceDecoder(keep_days=keep_days)
        self.metrics = MetricDecoder(keep_days=keep_days)

    def take(self, signal: str, sender: Sender, body: bytes, packing: str, room: int) -> Export:
        """Read one request and hand its rows over; ``outcome`` tells what becomes of them. Raises Refused.

        What pages take for the truth only some may say (``sender``).
        ``room`` is how many bytes it may unpack to now; the body is not needed afterwards.
        """
        plain = self._unpack(body, packing, room)
        export = self.exports.open(digest(f"{signal} {sender}", plain), clock.monotonic())
        if not export.complete and not export.waiting:
            try:
                self._begin(export, signal, sender, plain)
            finally:
                self.exports.drop(export)
        return export

    async def outcome(self, export: Export) -> bytes:
        """The encoded OTLP response once everything is stored; Refused when it is not, or not in time."""
        outcomes = list(export.waiting.values())
        if not outcomes:
            return export.answer
        _, late = await asyncio.wait(outcomes, timeout=self._patience)
        if late:
            # What has been sent goes on being stored: when this export comes again, its outcome may be known.
            self.buffer.withdraw(late)
            raise Refused(
                Problem(503, "telemetry_away", "ClickHouse did not answer in time; send this again.", retry_after=2)
            )
        for error in [outcome.exception() for outcome in outcomes]:
            if isinstance(error, Rejected):
                raise Refused(Problem(400, "not_storable", f"ClickHouse refuses these rows: {error}."))
            if error is not None:
                raise Refused(
                    Problem(503, "telemetry_away", f"ClickHouse did not take it ({error}); send this again.", 2)
                )
        return export.answer

    def _begin(self, export: Export, signal: str, sender: Sender, plain: bytes) -> None:
        """Read it, and hand over what is not stored yet."""
        now = clock.wall()
        try:
            decoded = self.traces.decode(plain, now) if signal == "traces" else self.metrics.decode(plain, now, sender)
        except Malformed as error:
            raise Refused(Problem(400, "malformed_otlp", f"This is not OTLP protobuf: {error}.")) from None
        try:
            outcomes = self.buffer.submit(
                [block for block in decoded.blocks if block.table not in export.stored], export.key
            )
        except Full:
            raise Refused(
                Problem(503, "collector_full", "The collector's buffer is full; send this again.", retry_after=1)
            ) from None
        if export.tables is None:
            self.counts.accepted[signal] += decoded.accepted
            self.counts.rejected[signal] += decoded.rejected
        export.answer = _answer(signal, decoded)
        export.tables = frozenset(block.table for block in decoded.blocks)
        self.exports.follow(export, outcomes)

    def _unpack(self, body: bytes, packing: str, room: int) -> bytes:
        try:
            return coding.decode(body, packing, min(self._limit, room))
        except coding.Unsupported as error:
            raise Refused(Problem(415, "unsupported_encoding", str(error))) from None
        except coding.TooLarge as error:
            if room < self._limit:
                raise Refused(
                    Problem(503, "collector_full", "Too many bytes are in flight; try again.", retry_after=1)
                ) from None
            raise Refused(Problem(413, "too_large", str(error))) from None
        except coding.CodingError as error:
            raise Refused(Problem(400, "malformed_encoding", str(error))) from None


def _answer(signal: str, decoded: Decoded) -> bytes:
    response = ExportTraceServiceResponse() if signal == "traces" else ExportMetricsServiceResponse()
    if decoded.rejected:
        if signal == "traces":
            response.partial_success.rejected_spans = decoded.rejected
        else:
            response.partial_success.rejected_data_points = decoded.rejected
        response.partial_success.error_message = f"{decoded.rejected} left out: {decoded.reason}"
    return bytes(response.SerializeToString())
