"""What the gateway tells the collector: a span for every request, metrics, and what it had to drop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from apps.gateway.core.edge import METRIC
from apps.gateway.plane.report import METRIC_SECONDS
from services.kit.together import SPREAD_S
from tests.serving import serving
from tests.waiting import patient, until
from tests.wire.gateway import KEY, Gateway, running


class Collector(ThreadingHTTPServer):
    """Takes OTLP/HTTP and keeps it."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.metrics: dict[str, int] = {}
        self.counts: list[bytes] = []
        """Bodies that hold the edge's counts, as often as they came."""
        self.measured_at: list[float] = []
        """When metrics and counts came."""
        self.status = 200
        self.silent = False

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if self.status == 200:
                    self.take(handler.path, body)
                if self.silent:
                    handler.close_connection = True
                    return
                handler.send_response(self.status)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            def log_message(handler, *arguments: object) -> None:
                return

        super().__init__(("127.0.0.1", port), Handler)

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        else:
            self.measured_at.append(time.time())
            if METRIC.encode() in body:
                self.counts.append(body)
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        points = metric.histogram.data_points or metric.sum.data_points or metric.gauge.data_points
                        self.metrics[metric.name] = sum(
                            getattr(point, "count", 0) or getattr(point, "as_int", 0) for point in points
                        )

    def counted(self) -> Counter[tuple[str, int, str]]:
        """Requests by route, status and failure, over every body that came, each taken once."""
        found: Counter[tuple[str, int, str]] = Counter()
        for body in set(self.counts):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in resource.scope_metrics[0].metrics:
                    for point in metric.exponential_histogram.data_points:
                        names = attributes(point)
                        if point.count:
                            key = (
                                names.get("mc.route", ""),
                                names["http.response.status_code"],
                                names.get("error.type", ""),
                            )
                            found[key] += point.count
        return found


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    with running(tmp_path, redis_url) as found:
        yield found


@pytest.fixture
def collector(gateway: Gateway) -> Iterator[Collector]:
    with serving(Collector(gateway.otlp_port)) as server:
        yield server


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_leaves_a_span_in_its_callers_trace(gateway: Gateway, collector: Collector) -> None:
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    answer = gateway.get("/up/echo/x?secret=1", f"X-API-Key: {KEY}", f"traceparent: {parent}", "tracestate: a=b")
    assert answer.fields["x-trace-id"] == "ab" * 16
    sent = dict(answer.json()["fields"])
    until(lambda: collector.spans, 4, what="a span")
    span = collector.spans[0]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    assert sent["traceparent"] == f"00-{'ab' * 16}-{span.span_id.hex()}-01" and sent["tracestate"] == "a=b"
    assert (span.name, span.kind) == ("GET /up", Span.SPAN_KIND_SERVER)
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 5e9
    found = attributes(span)
    assert found["http.response.status_code"] == 200 and found["url.path"] == "/up/echo/x"
    assert (found["http.route"], found["mc.service"], found["mc.consumer"]) == ("/up", "up", "tester")
    assert (found["mc.instance"], found["client.address"]) == ("up/one", "127.0.0.1")
    assert collector.resources[0]["service.name"] == "gateway"


def test_refusals_and_malformed_requests_leave_spans_and_counts_too(gateway: Gateway, collector: Collector) -> None:
    gateway.get("/nowhere")
    gateway.get("/up/x")
    gateway.get("/open/status/500")
    with gateway.connect().sock as raw:
        raw.sendall(b"BROKEN\r\n\r\n")
        raw.recv(1000)
    until(lambda: len(collector.spans) >= 4, 4)
    by_status = {attributes(span)["http.response.status_code"]: span for span in collector.spans}
    assert attributes(by_status[404])["error.type"] == "no_route" and by_status[404].status.code == 0
    assert attributes(by_status[401])["error.type"] == "credentials_missing"
    assert attributes(by_status[400])["error.type"] == "framing"
    assert by_status[500].status.code == 2
    until(lambda: collector.metrics.get("http.server.request.duration", 0) >= 4, 8, what="metrics")
    assert {"mc.gateway.connections", "mc.gateway.breaker.state", "mc.gateway.dropped"} <= set(collector.metrics)


def test_an_unsampled_callers_request_leaves_none(gateway: Gateway, collector: Collector) -> None:
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-00"
    echo = gateway.get("/up/echo", f"X-API-Key: {KEY}", f"traceparent: {parent}").json()
    assert dict(echo["fields"])["traceparent"].endswith("-00")
    gateway.get("/open/x")
    until(lambda: collector.spans, 4)
    assert [span.name for span in collector.spans] == ["GET /open"]


def test_an_unsampled_callers_request_is_counted_all_the_same(gateway: Gateway, collector: Collector) -> None:
    for number in range(10):
        gateway.get("/open/status/500", f"traceparent: 00-{'ab' * 16}-{'cd' * 8}-{number % 2:02}")
    until(lambda: collector.counted()["open", 500, ""] == 10, 8, what="ten counted")
    assert len(collector.spans) == 5


def test_counts_outlast_a_collector_that_is_away_or_never_answers(gateway: Gateway) -> None:
    for _ in range(5):
        gateway.get("/open/x")
    until(lambda: "does not take telemetry" in gateway.logs(), 8)
    for _ in range(5):
        gateway.get("/up/x")
    server = Collector(gateway.otlp_port)
    server.silent = True  # it stores what comes, and its answer is lost
    with serving(server):
        until(lambda: server.counts, 20, what="the first counts")
        server.silent = False
        wanted = {("open", 200, ""): 5, ("up", 401, "credentials_missing"): 5}
        until(lambda: server.counted() == wanted, 30, what="every request counted")
        assert server.counts.count(server.counts[0]) > 1, "what was not known to be stored came again, byte for byte"


@pytest.mark.parametrize(
    "parent",
    ["00-" + "0" * 32 + "-" + "cd" * 8 + "-01", "ff-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "00-AB-cd-01", "nonsense"],
)
def test_a_malformed_traceparent_starts_a_new_trace_and_drops_the_state(gateway: Gateway, parent: str) -> None:
    answer = gateway.get("/open/echo", f"traceparent: {parent}", "tracestate: a=b")
    names = dict(answer.json()["fields"])
    assert names["traceparent"].split("-")[1] == answer.fields["x-trace-id"] != "0" * 32
    assert "tracestate" not in names


def test_spans_wait_for_a_collector_that_is_away(gateway: Gateway) -> None:
    for _ in range(20):
        gateway.get("/open/x")
    until(lambda: "does not take telemetry" in gateway.logs(), 4)
    with serving(Collector(gateway.otlp_port)) as server:
        until(lambda: len(server.spans) >= 20, 5, what="the spans of before")
        assert len({span.span_id for span in server.spans}) == len(server.spans)


def test_a_collector_that_refuses_costs_its_spans_and_they_are_counted(gateway: Gateway, collector: Collector) -> None:
    collector.status = 400
    gateway.get("/open/x")
    until(
        lambda: any(beat["dropped"] >= 1 for beat in gateway.workers_seen().values()), 6, what="a drop in the heartbeat"
    )


def test_every_request_of_a_burst_leaves_one_span(gateway: Gateway, collector: Collector) -> None:
    connection = gateway.connect()
    for _ in range(500):
        connection.send("GET /open/x HTTP/1.1", "Host: a")
        assert connection.read().status == 200
    connection.close()
    until(lambda: len(collector.spans) == 500, 5, what="500 spans")


def test_an_idle_gateway_reports_at_one_moment_whatever_it_has_to_say(gateway: Gateway, collector: Collector) -> None:
    """What the store has to do is done once then for the metrics and the empty counts of all workers."""
    # What came before the test is counted yet.
    until(lambda: time.time() % METRIC_SECONDS > METRIC_SECONDS - 2, 6, what="the quiet end of an interval")
    collector.measured_at.clear()
    until(lambda: len(collector.measured_at) >= 4, 30, what="two reports of metrics and counts")
    assert all(at % METRIC_SECONDS < SPREAD_S + patient(0.5) for at in collector.measured_at[:4]), collector.measured_at
