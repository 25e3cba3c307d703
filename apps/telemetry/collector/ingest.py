"""One OTLP request from body to answer: unpack, decode, store. Knows OTLP's answers, not HTTP servers."""

from __future__ import annotations

from collections import Counter as Tallies
from dataclasses import dataclass, field

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from apps.lib import clock
from apps.lib.problem import Problem, Refused
from apps.telemetry import coding
from apps.telemetry.collector.attributes import Malformed
from apps.telemetry.collector.buffer import Away, Buffer, Full, Rejected
from apps.telemetry.collector.decode import Decoded, TraceDecoder
from apps.telemetry.collector.metrics import MetricDecoder


@dataclass(slots=True)
class Counts:
    """What came in, since the start."""

    requests: int = 0
    received_bytes: int = 0
    accepted: Tallies[str] = field(default_factory=Tallies)
    """Spans and points taken, by signal."""
    rejected: Tallies[str] = field(default_factory=Tallies)
    """Spans and points left out as invalid, by signal."""
    refused: Tallies[str] = field(default_factory=Tallies)
    """Requests refused, by failure."""


class Ingest:
    """Decoders with their caches, in front of the buffer. One per event loop."""

    def __init__(self, buffer: Buffer, *, unpacked_limit: int, keep_days: int = 7) -> None:
        self.counts = Counts()
        self.buffer = buffer
        self._limit = unpacked_limit
        self.traces = TraceDecoder(keep_days=keep_days)
        self.metrics = MetricDecoder(keep_days=keep_days)

    async def export(self, signal: str, body: bytes, packing: str) -> bytes:
        """Store one request; the encoded OTLP response. Raises Refused with the problem to send."""
        plain = unpack(body, packing, self._limit)
        decoder = self.traces if signal == "traces" else self.metrics
        try:
            decoded = decoder.decode(plain, clock.wall())
        except Malformed as error:
            raise Refused(Problem(400, "malformed_otlp", f"This is not OTLP protobuf: {error}.")) from None
        if decoded.blocks:
            await self._store(decoded)
        self.counts.accepted[signal] += decoded.accepted
        self.counts.rejected[signal] += decoded.rejected
        return _answer(signal, decoded)

    async def _store(self, decoded: Decoded) -> None:
        try:
            await self.buffer.add(decoded.blocks)
        except Full:
            raise Refused(
                Problem(503, "collector_full", "The collector's buffer is full; send this again.", retry_after=1)
            ) from None
        except Away as error:
            raise Refused(
                Problem(503, "telemetry_away", f"ClickHouse did not take it in time ({error}).", retry_after=2)
            ) from None
        except Rejected as error:
            raise Refused(Problem(400, "not_storable", f"ClickHouse refuses these rows: {error}.")) from None


def unpack(body: bytes, packing: str, limit: int) -> bytes:
    """The body without its content coding, never more than ``limit`` bytes; Refused otherwise."""
    try:
        return coding.decode(body, packing, limit)
    except coding.Unsupported as error:
        raise Refused(Problem(415, "unsupported_encoding", str(error))) from None
    except coding.TooLarge as error:
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
