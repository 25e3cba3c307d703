"""What the worker says about itself: counts of every request, spans, and metrics of everything, sent as OTLP/HTTP.

Owns the bounded buffer of spans between requests and the collector. What does not fit is dropped and counted;
nothing here can make a request wait. Counts go their own way (apps.gateway.plane.ledger) and are never dropped.
"""

from __future__ import annotations

import asyncio
import logging
import random
from binascii import unhexlify
from collections import deque

from apps.gateway.core.edge import Edge, Labels, Tally
from apps.gateway.core.metrics import METHODS, Histogram
from apps.gateway.core.trace import KIND_SERVER, Envelope, Text, Value, attribute, span, span_shape
from apps.gateway.plane.fetch import FetchError, endpoint
from apps.gateway.plane.ledger import Ledger
from apps.gateway.plane.metrics import encode
from apps.gateway.plane.request import Request
from apps.gateway.plane.worker import Worker
from apps.lib.clock import monotonic, wall
from services.kit.together import seconds_until

log = logging.getLogger(__name__)

BATCH_BYTES = 524_288
BUFFER_BYTES = 16 * 1024 * 1024
"""Spans kept while the collector is away; the newest are dropped when it is full."""
SPAN_SECONDS = 1.0
METRIC_SECONDS = 5.0
SEND_SECONDS = 5.0
SCOPE = "mission-control.gateway"
MAX_SHAPES = 4000

_PATH = Text("url.path")
_DEPENDENCY = Text("mc.failed_dependency")


class Shape:
    """What all requests of one route, method and outcome share: their span's bytes, where they are counted."""

    __slots__ = ("_edge", "_labels", "_round", "_tallies", "histogram", "span")

    def __init__(self, span_bytes: bytes, histogram: Histogram, edge: Edge, labels: Labels) -> None:
        self.span = span_bytes
        self.histogram = histogram
        self._edge = edge
        self._labels = labels
        self._tallies: dict[str, Tally] = {}
        """By consumer, of this round; as many as there are series at most."""
        self._round = edge.round

    def count(self, consumer: str, seconds: float) -> None:
        """One request, in both."""
        self.histogram.add(seconds)
        edge, tallies = self._edge, self._tallies
        if self._round != edge.round:
            self._round = edge.round
            tallies.clear()
        tally = tallies.get(consumer)
        if tally is None:
            tally = edge.tally(self._labels._replace(consumer=consumer))
            if not tally.shared:
                tallies[consumer] = tally
        tally.add(seconds)


class Reporter:
    """Collects and sends."""

    def __init__(self, worker: Worker) -> None:
        settings = worker.settings
        self._worker = worker
        self.dropped = 0
        """Records lost since the start."""
        self.sent = 0
        resource: dict[str, Value] = {
            "service.name": "gateway",
            "service.version": settings.version,
            "service.instance.id": worker.id,
        }
        self._envelope = Envelope(resource, SCOPE, settings.version)
        self._resource = resource
        self._shapes: dict[tuple[str, str, bytes, int, str], Shape] = {}
        self._batch: list[bytes] = []
        self._size = 0
        self._queue: deque[tuple[bytes, int]] = deque()
        """Encoded requests and the spans in each."""
        self._queued = 0
        self._wake = asyncio.Event()
        self._traces = endpoint("collector", settings.otlp_url.rstrip("/") + "/v1/traces")
        self._metrics = endpoint("collector", settings.otlp_url.rstrip("/") + "/v1/metrics")
        self._headers = b"Content-Type: application/x-protobuf\r\n" + b"".join(
            f"{name}: {value}\r\n".encode() for name, value in settings.otlp_headers
        )
        self.ledger = Ledger(self._metrics, self._headers, resource, SCOPE)
        self._away = False

    # -- from the request path ------------------------------------------------------------------------

    def record(self, exchange: Request, status: int, seconds: float) -> None:
        """One finished request."""
        route, failure = exchange.routed, exchange.failure
        identity = exchange.identity
        name, service = (route.name, route.service) if route is not None else ("", "")
        key = (name, service, exchange.method, status, failure)
        shape = self._shapes.get(key) or self._shape(key, exchange)
        shape.count(identity.consumer if identity is not None else "", seconds)
        if not exchange.sampled:
            return
        if self._queued + self._size > BUFFER_BYTES:
            self.dropped += 1
            return
        more = _PATH.encode(exchange.path.encode()) + exchange.client.address_attribute
        if identity is not None:
            more += identity.attribute
        if route is not None and (instance := exchange.tries.instance) is not None:
            more += instance.attribute
            if exchange.tries.count > 1:
                more += attribute("http.request.resend_count", exchange.tries.count - 1)
        if exchange.failed_dependency is not None:
            more += _DEPENDENCY.encode(exchange.failed_dependency[:128].decode("ascii", "replace").encode())
        started = exchange.started_ns
        encoded = span(
            unhexlify(exchange.trace_id),
            exchange.span_id,
            unhexlify(exchange.parent_id),
            shape.span,
            started,
            started + int(seconds * 1e9),
            more,
        )
        self._batch.append(encoded)
        self._size += len(encoded)
        if self._size >= BATCH_BYTES:
            self._close_batch()
            self._wake.set()

    def _shape(self, key: tuple[str, str, bytes, int, str], exchange: Request) -> Shape:
        name, service, raw, status, failure = key
        method = raw.decode("latin-1") if raw.decode("latin-1") in METHODS else "_OTHER"
        route = exchange.routed
        attributes: dict[str, Value] = {"http.request.method": method, "http.response.status_code": status}
        if route is not None:
            attributes |= {"http.route": route.path, "mc.route": name, "mc.service": service}
        if failure:
            attributes |= {"error.type": failure}
        title = f"{method} {route.path}" if route is not None else method
        error = (failure or f"HTTP {status}") if status >= 500 else None
        histogram = self._worker.metrics.request((name, service, method, status))
        labels = Labels(service, name, "", status, failure)
        shape = Shape(span_shape(title, KIND_SERVER, attributes, error), histogram, self.ledger.edge, labels)
        if len(self._shapes) < MAX_SHAPES:
            self._shapes[key] = shape
        return shape

    def _close_batch(self) -> None:
        batch, self._batch = self._batch, []
        self._size = 0
        if batch:
            body = self._envelope.wrap(batch)
            self._queue.append((body, len(batch)))
            self._queued += len(body)

    # -- sending --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send counts every two seconds, spans every second or half megabyte, metrics every five seconds.

        Counts of no requests go with the metrics, as the other workers' do: what the store has to do for them is done
        once for all.
        """
        place = random.random()  # noqa: S311 - a place in a queue, not a secret
        metrics_due = monotonic() + seconds_until(wall(), METRIC_SECONDS, place)
        while True:
            try:
                async with asyncio.timeout(max(min(SPAN_SECONDS, metrics_due - monotonic()), 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                self._close_batch()
            self._wake.clear()
            beat = monotonic() >= metrics_due
            # Beside each other: the collector answers when it has stored.
            async with asyncio.TaskGroup() as sending:
                if beat:
                    metrics_due = monotonic() + seconds_until(wall(), METRIC_SECONDS, place)
                    sending.create_task(self._send_metrics(), name="metrics")
                await self._send_counts(beat=beat)
            await self._send_spans()

    async def _send_counts(self, *, beat: bool = False) -> None:
        if why := await self.ledger.send(beat=beat):
            self._note_away(why)

    async def _send_spans(self) -> None:
        while self._queue:
            await self._send_counts()  # a long queue of spans does not make them late
            body, spans = self._queue[0]
            if not await self._post(body, spans):
                return  # kept for the next round
            self._queue.popleft()
            self._queued -= len(body)

    async def _post(self, body: bytes, spans: int) -> bool:
        """Send one batch; False when it should be tried again."""
        try:
            status, _ = await self._traces.call("POST", self._headers, body, seconds=SEND_SECONDS)
        except FetchError as error:
            self._note_away(str(error))
            return False
        if status == 429 or status >= 500:
            self._note_away(f"it answered {status}")
            return False
        if status >= 300:
            self.dropped += spans
            self._note_away(f"it answered {status}, {spans} spans are lost")
            return True
        self.sent += spans
        self._away = False
        return True

    def _note_away(self, why: str) -> None:
        if not self._away:
            log.warning("The collector does not take telemetry: %s", why)
        self._away = True

    async def _send_metrics(self) -> None:
        counters = {
            ("mc.gateway.dropped", "record"): self.dropped,
            ("mc.gateway.dropped", "count"): self.ledger.refused,
            ("mc.gateway.counted.other", ""): self.ledger.edge.overflowed,
            ("mc.gateway.spans.sent", ""): self.sent,
        }
        body = encode(self._worker, self._resource, counters)
        try:
            await self._metrics.call("POST", self._headers, body, seconds=SEND_SECONDS)
        except FetchError:
            return  # cumulative: the next one carries it all

    async def close(self) -> None:
        """The last counts and spans, if the collector takes them."""
        self._close_batch()
        if not await self.ledger.close():
            await self._send_spans()
        for each in (self._traces, self._metrics):
            each.instance.close()
