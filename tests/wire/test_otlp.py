"""OTLP over HTTP against the real collector and the embedded ClickHouse: right answers to good and bad input."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import secrets
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from apps.gateway.core.edge import Encoder, Labels, Tally
from missioncontrol import keys
from services.kit import proof
from tests.clickhouse import TOKEN, CollectorProcess
from tests.waiting import patient, until

MIB = 1024 * 1024
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture(scope="module")
def collector(clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    home = tmp_path_factory.mktemp("collector")
    database = f"otlp_{uuid.uuid4().hex[:12]}"
    settings = {"MC_HOST": "0.0.0.0", "MC_OTLP_BODY_TIMEOUT": "1", "MC_OTLP_MAX_BODY": str(MIB)}  # noqa: S104
    settings["MC_OTLP_IN_FLIGHT"] = str(6 * MIB)
    with CollectorProcess(home, clickhouse_url, database, **settings) as running:
        yield running
    requests.post(clickhouse_url, data=f"DROP DATABASE {database}", timeout=10).raise_for_status()


@pytest.fixture
def ask(collector: CollectorProcess, clickhouse_url: str) -> Any:
    def query(sql: str) -> list[list[Any]]:
        options = {"database": collector.database, "default_format": "JSONCompact"}
        options["output_format_json_quote_64bit_integers"] = "0"
        answer = requests.post(clickhouse_url, data=sql, params=options, timeout=10)
        answer.raise_for_status()
        return list(answer.json()["data"])

    return query


def export(spans: int = 1, *, service: str = "svc", **fields: Any) -> ExportTraceServiceRequest:
    """A request with good spans, or with ``fields`` put over the first."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    scope = group.scope_spans.add()
    now = time.time_ns()
    for _ in range(spans):
        scope.spans.add(
            trace_id=secrets.token_bytes(16),
            span_id=secrets.token_bytes(8),
            name="op",
            kind=2,
            start_time_unix_nano=now,
            end_time_unix_nano=now + 5_000_000,
        )
    for name, value in fields.items():
        setattr(scope.spans[0], name, value)
    return request


def post(collector: CollectorProcess, body: bytes, path: str = "/v1/traces", **headers: str) -> requests.Response:
    return requests.post(collector.url + path, data=body, headers=PROTOBUF | headers, timeout=15)


def test_an_answered_span_can_be_queried_at_once(collector: CollectorProcess, ask: Any) -> None:
    service = f"at-once-{uuid.uuid4().hex}"
    answer = post(collector, export(3, service=service).SerializeToString())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/x-protobuf"
    assert not ExportTraceServiceResponse.FromString(answer.content).HasField("partial_success")
    assert ask(f"SELECT count() FROM otel_traces WHERE ServiceName = '{service}'") == [[3]]
    assert ask(f"SELECT sum(Count) FROM otel_red_10s WHERE ServiceName = '{service}'") == [[3]]


def test_the_sdk_exports_spans_with_everything_on_them(collector: CollectorProcess, ask: Any) -> None:
    service = f"sdk-{uuid.uuid4().hex}"
    exporter = OTLPSpanExporter(f"{collector.url}/v1/traces", compression=Compression.Gzip)
    provider = TracerProvider(resource=Resource({"service.name": service, "tags": ["a", "b"]}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope", "1.2")
    attributes = {"text": "ümlaut", "whole": -5, "big": 10**15, "yes": True, "real": 1.5, "list": [1, 2]}
    with tracer.start_as_current_span("root", kind=api.SpanKind.SERVER, attributes=attributes) as root:
        root.add_event("happened", {"why": "because"})
        with tracer.start_as_current_span("child", links=[api.Link(root.get_span_context(), {"l": "v"})]) as child:
            child.set_status(api.StatusCode.ERROR, "it broke")
    provider.shutdown()
    found = ask(
        "SELECT SpanName, SpanKind, StatusCode, StatusMessage, SpanAttributes, ResourceAttributes['tags'], ScopeName, "
        "ScopeVersion, Events.Name, Events.Attributes, Links.TraceId, Links.Attributes, TraceId, ParentSpanId, SpanId "
        f"FROM otel_traces WHERE ServiceName = '{service}' ORDER BY Timestamp"
    )
    root_row, child_row = found
    assert root_row[:4] == ["root", "Server", "Unset", ""]
    assert root_row[4] == {
        "text": "ümlaut", "whole": "-5", "big": "1000000000000000", "yes": "true", "real": "1.5", "list": "[1, 2]",
    }  # fmt: skip
    assert root_row[5:10] == ['["a", "b"]', "scope", "1.2", ["happened"], [{"why": "because"}]]
    assert child_row[:4] == ["child", "Internal", "Error", "it broke"]
    assert child_row[10:12] == [[root_row[12]], [{"l": "v"}]]
    assert root_row[13] == ""
    assert child_row[13] == root_row[14]


def counted(metric: str, service: str) -> bytes:
    """One point of a counter, as ``service`` would say it of itself."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    total = group.scope_metrics.add().metrics.add(name=metric).sum
    total.aggregation_temporality, total.is_monotonic = 2, True
    total.data_points.add(time_unix_nano=time.time_ns(), as_int=7)
    return bytes(request.SerializeToString())


def test_nobody_but_mission_control_reports_in_its_name(collector: CollectorProcess, ask: Any) -> None:
    def tell(body: bytes, **fields: str) -> int:
        answer = requests.post(f"{collector.url}/v1/metrics", data=body, headers=PROTOBUF | fields, timeout=10)
        assert answer.status_code == 200, answer.text
        return int(ExportMetricsServiceResponse.FromString(answer.content).partial_success.rejected_data_points)

    edge = Encoder({"service.name": "gateway"}, "scope")
    forged = edge.encode({Labels("mint", "mint", "demo", 500, ""): Tally()}, time.time_ns(), time.time_ns())
    for fields in ({}, {"Authorization": f"Bearer {TOKEN}"}, {proof.FIELD: TOKEN}, {proof.FIELD: ""}):
        assert tell(forged, **fields) == 1
        assert tell(counted("mc.gateway.faults", "gateway"), **fields) == 1
    for fields in ({}, {proof.FIELD: TOKEN}, {proof.FIELD: ""}):
        assert tell(counted("mc.bus.lag", "mint"), **fields) == 1, "a stranger on this machine speaks for no service"
        assert tell(counted("mc.outbox.waiting", "mint"), **fields) == 1
    for fields in ({proof.FIELD: proof.of(TOKEN)}, {"Authorization": f"Bearer {TOKEN}"}):
        assert tell(counted("mc.bus.lag", "mint"), **fields) == 0, "what the services' kit counts, the fleet says"
        assert tell(counted("mc.gateway.faults", "gateway"), **fields) == 1
    assert tell(counted("mine", "gateway")) == 0
    true = {proof.FIELD: keys.telemetry()}
    assert tell(forged, **true) == tell(counted("mc.gateway.faults", "gateway"), **true) == 0, (
        "those bytes are no repeat"
    )
    assert ask("SELECT count() FROM otel_metrics_exponential_histogram") == [[1]]
    assert ask("SELECT count() FROM otel_metrics_sum WHERE MetricName = 'mc.gateway.faults'") == [[1]]


def test_the_sdk_exports_metrics_of_every_kind(collector: CollectorProcess, ask: Any) -> None:
    service = f"meters-{uuid.uuid4().hex}"
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{collector.url}/v1/metrics"), 60_000)
    provider = MeterProvider([reader], Resource({"service.name": service}))
    meter = provider.get_meter("m")
    meter.create_counter("calls", "1", "how many").add(3, {"route": "/a"})
    meter.create_gauge("level").set(1.5)
    meter.create_histogram("wait", "ms").record(12)
    provider.shutdown()
    where = f"WHERE ServiceName = '{service}'"
    assert ask(
        f"SELECT MetricName, Value, Attributes, IsMonotonic, MetricDescription FROM otel_metrics_sum {where}"
    ) == [["calls", 3, {"route": "/a"}, True, "how many"]]
    assert ask(f"SELECT MetricName, Value FROM otel_metrics_gauge {where}") == [["level", 1.5]]
    found = ask(
        "SELECT MetricName, Count, Sum, Min, Max, arraySum(BucketCounts), "
        "length(BucketCounts) - length(ExplicitBounds) "
        f"FROM otel_metrics_histogram {where}"
    )
    assert found == [["wait", 1, 12, 12, 12, 1, 1]]


DAY = 86_400 * 10**9


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b"short"}, "trace id"),
        ({"trace_id": bytes(16)}, "trace id"),
        ({"span_id": b""}, "span id"),
        ({"span_id": bytes(8)}, "span id"),
        ({"parent_span_id": b"xyz"}, "parent"),
        ({"start_time_unix_nano": 0}, "start time"),
        ({"start_time_unix_nano": time.time_ns() - 30 * DAY}, "start time"),
        ({"start_time_unix_nano": time.time_ns() + 3 * DAY}, "start time"),
        ({"start_time_unix_nano": 2**64 - 1}, "start time"),
    ],
)
def test_what_cannot_be_stored_is_left_out_and_the_rest_is_taken(
    collector: CollectorProcess, ask: Any, fields: dict[str, Any], reason: str
) -> None:
    service = f"partial-{uuid.uuid4().hex}"
    answer = post(collector, export(3, service=service, **fields).SerializeToString())
    assert answer.status_code == 200
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_spans == 1
    assert reason in partial.error_message
    assert ask(f"SELECT count() FROM otel_traces WHERE ServiceName = '{service}'") == [[2]]


@pytest.mark.parametrize(
    "fields",
    [
        {"end_time_unix_nano": 0},
        {"end_time_unix_nano": 2**64 - 1},
        {"kind": 77},
        {"name": ""},
        {"name": "n" * 50_000},
        {"trace_state": "a=b"},
    ],
)
def test_odd_but_storable_spans_are_stored(collector: CollectorProcess, ask: Any, fields: dict[str, Any]) -> None:
    service = f"odd-{uuid.uuid4().hex}"
    answer = post(collector, export(1, service=service, **fields).SerializeToString())
    assert answer.content == b""
    assert ask(f"SELECT count() FROM otel_traces WHERE ServiceName = '{service}'") == [[1]]


def test_too_many_and_too_long_attributes_are_cut_and_counted(collector: CollectorProcess, ask: Any) -> None:
    request = export(1, service="cut")
    span = request.resource_spans[0].scope_spans[0].spans[0]
    for number in range(300):
        span.attributes.add(key=f"k{number}").value.string_value = "v"
    span.attributes[0].value.string_value = "x" * 100_000
    before = requests.get(f"{collector.url}/stats", timeout=5).json()
    assert post(collector, request.SerializeToString()).status_code == 200
    after = requests.get(f"{collector.url}/stats", timeout=5).json()
    assert after["left_out_attributes"] - before["left_out_attributes"] == 300 - 128
    assert after["truncated_values"] - before["truncated_values"] == 1
    found = ask(
        "SELECT length(SpanAttributes), length(SpanAttributes['k0']) FROM otel_traces WHERE ServiceName = 'cut'"
    )
    assert found == [[128, 8192]]


GOOD = export().SerializeToString()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "failure"),
    [
        ("/v1/traces", b"\xff\xff not protobuf", {}, 400, "malformed_otlp"),
        ("/v1/metrics", b"\xff\xff not protobuf", {}, 400, "malformed_otlp"),
        ("/v1/traces", b"\n\x04\x12\x02\x0a\x7f", {}, 400, "malformed_otlp"),
        ("/v1/traces", b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        ("/v1/traces", GOOD, {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ("/v1/traces", GOOD, {"Content-Encoding": "br"}, 415, "unsupported_encoding"),
        ("/v1/traces", GOOD, {"Content-Encoding": "gzip"}, 400, "malformed_encoding"),
        ("/v1/traces", gzip.compress(GOOD)[:-4], {"Content-Encoding": "gzip"}, 400, "malformed_encoding"),
        ("/v1/traces", gzip.compress(bytes(80 * MIB), 1), {"Content-Encoding": "gzip"}, 413, "too_large"),
        ("/v1/traces", gzip.compress(bytes(4 * MIB + 1), 1), {"Content-Encoding": "gzip"}, 413, "too_large"),
        ("/v1/traces", bytes(2 * 2**20), {}, 413, "too_large"),
        ("/v1/traces", GOOD, {"Authorization": "Bearer wrong"}, 401, "bad_token"),
        ("/v1/traces", GOOD, {"Authorization": f"Basic {TOKEN}"}, 401, "bad_token"),
        ("/v1/logs", GOOD, {}, 404, "not_served"),
        ("/v2/traces", GOOD, {}, 404, "not_found"),
    ],
    # Bodies hold fresh ids, and every worker of a run has to call a test by the same name.
    ids=lambda value: "body" if isinstance(value, bytes) else None,
)
def test_bad_requests_get_the_right_refusal(
    collector: CollectorProcess, path: str, body: bytes, headers: dict[str, str], status: int, failure: str
) -> None:
    answer = post(collector, body, path, **headers)
    assert (answer.status_code, answer.json()["failure"]) == (status, failure)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert post(collector, GOOD).status_code == 200


def test_malformed_inner_messages_refuse_the_whole_request(collector: CollectorProcess, ask: Any) -> None:
    """Attributes and events are read late; a broken one must still be a 400 and store nothing."""
    service = f"inner-{uuid.uuid4().hex}"
    for broken in (
        b"\x4a\x02\x0a\x7f",
        b"\x5a\x02\x12\x7f",
        b"\x6a\x02\x0a\x7f",
        b"\x7a\x02\x12\x7f",
        b"\x4a\x04\x0a\x02\xff\xfe",
    ):
        request = export(1, service=service)
        span = request.resource_spans[0].scope_spans[0].spans[0].SerializeToString() + broken
        raw = b"\x12" + _length(span) + span
        resource = request.resource_spans[0].resource.SerializeToString()
        group = b"\x0a" + _length(resource) + resource + b"\x12" + _length(raw) + raw
        answer = post(collector, b"\x0a" + _length(group) + group)
        assert (answer.status_code, answer.json()["failure"]) == (400, "malformed_otlp"), broken
    assert ask(f"SELECT count() FROM otel_traces WHERE ServiceName = '{service}'") == [[0]]


def _length(data: bytes) -> bytes:
    size, out = len(data), bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def test_only_post_is_taken(collector: CollectorProcess) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = requests.request(method, f"{collector.url}/v1/traces", timeout=5)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_an_empty_export_is_fine(collector: CollectorProcess) -> None:
    assert post(collector, b"").status_code == 200


def test_a_body_that_never_comes_is_408_and_one_that_is_too_long_is_413(collector: CollectorProcess) -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
    with socket.create_connection(("127.0.0.1", collector.port), 10) as slow:
        slow.sendall(head + b"Content-Length: 1000\r\n\r\npart")
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", collector.port), 10) as endless:
        endless.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        answer = b""
        try:
            for _ in range(64):
                endless.sendall(chunk)
        except OSError:
            pass
        try:
            answer = endless.recv(4096)
        except ConnectionResetError:
            answer = b"HTTP/1.1 413 the connection was reset after the refusal"
        assert b" 413 " in answer.split(b"\r\n")[0]
    assert post(collector, GOOD).status_code == 200


def test_a_body_that_drips_is_cut_off(collector: CollectorProcess) -> None:
    head = (
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000\r\n\r\n"
    )
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", collector.port), 0.2) as slow:
        slow.sendall(head)
        answer = b""
        while not answer:
            assert time.monotonic() - started < patient(6), "a byte now and then holds a request for ever"
            slow.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = slow.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]


def test_bytes_are_counted_while_they_come_and_refused_past_the_bound(collector: CollectorProcess) -> None:
    """Twelve clients send all but the end of a body of 900 KiB, where six MiB may be in flight."""
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
    piece = b"%x\r\n" % (900 * 1024) + bytes(900 * 1024) + b"\r\n"
    before = requests.get(f"{collector.url}/stats", timeout=5).json()["refused"].get("collector_full", 0)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", collector.port), 10)) for _ in range(12)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + piece)
        until(lambda: stats(collector)["refused"].get("collector_full", 0) >= before + 5, 5, what="five refusals")
        assert stats(collector)["in_flight_bytes"] <= 6 * MIB + 900 * 1024
    until(lambda: stats(collector)["in_flight_bytes"] == 0, 5, what="nothing held for gone clients")
    assert post(collector, export().SerializeToString()).status_code == 200


def test_what_is_unpacked_counts_against_the_same_bound(collector: CollectorProcess) -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
    packed = gzip.compress(export().SerializeToString(), 1)
    bomb = gzip.compress(bytes(3 * MIB), 1)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", collector.port), 10))
            client.sendall(
                head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (900 * 1024) + bytes(900 * 1024) + b"\r\n"
            )
        until(lambda: stats(collector)["in_flight_bytes"] >= 4 * MIB, 5, what="four MiB held")
        refused = post(collector, bomb, **{"Content-Encoding": "gzip"})
        assert (refused.status_code, refused.json()["failure"]) == (503, "collector_full")
        assert int(refused.headers["Retry-After"]) >= 1
        assert post(collector, packed, **{"Content-Encoding": "gzip"}).status_code == 200


def test_an_export_that_comes_again_is_stored_once_however_it_is_packed(collector: CollectorProcess, ask: Any) -> None:
    service = f"again-{uuid.uuid4().hex}"
    body = export(3, service=service, trace_id=b"short").SerializeToString()
    answers = [
        post(collector, body),
        post(collector, gzip.compress(body), **{"Content-Encoding": "gzip"}),
        post(collector, body),
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert {
        ExportTraceServiceResponse.FromString(answer.content).partial_success.rejected_spans for answer in answers
    } == {1}
    assert ask(f"SELECT count() FROM otel_traces WHERE ServiceName = '{service}'") == [[2]]
    assert ask(f"SELECT sum(Count) FROM otel_red_10s WHERE ServiceName = '{service}'") == [[2]]


def stats(collector: CollectorProcess) -> dict[str, Any]:
    return dict(requests.get(f"{collector.url}/stats", timeout=5).json())


def test_clients_that_hang_up_cost_nothing(collector: CollectorProcess) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", collector.port), 10) as gone:
            gone.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
                         b"Content-Length: 100000\r\n\r\n" + bytes(5000))  # fmt: skip
    deadline = time.monotonic() + 5
    while requests.get(f"{collector.url}/stats", timeout=5).json()["in_flight_bytes"]:
        assert time.monotonic() < deadline, "bytes of gone clients stay counted"
        time.sleep(0.05)
    assert post(collector, GOOD).status_code == 200


def test_from_another_machine_the_fleet_token_is_needed(collector: CollectorProcess) -> None:
    outside = next(
        (
            address.address
            for addresses in psutil.net_if_addrs().values()
            for address in addresses
            if address.family == socket.AF_INET and not address.address.startswith("127.")
        ),
        None,
    )
    if outside is None:
        pytest.skip("this machine has no address but loopback")
    url = f"http://{outside}:{collector.port}/v1/traces"
    refused = requests.post(url, data=GOOD, headers=PROTOBUF, timeout=5)
    assert (refused.status_code, refused.json()["failure"]) == (401, "no_token")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    taken = requests.post(url, data=GOOD, headers=PROTOBUF | {"Authorization": f"Bearer {TOKEN}"}, timeout=5)
    assert taken.status_code == 200


def test_one_connection_carries_many_exports(collector: CollectorProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=10)
    for _ in range(3):
        connection.request("POST", "/v1/traces", GOOD, PROTOBUF)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    connection.close()


def test_figures_are_told_as_json_and_as_prometheus_text(collector: CollectorProcess) -> None:
    post(collector, b"\xff")
    figures = requests.get(f"{collector.url}/stats", timeout=5).json()
    assert figures["refused"]["malformed_otlp"] >= 1
    assert figures["accepted"]["traces"] >= 1
    assert figures["stored_rows"] >= 1
    assert figures["dropped"] == {"buffer_full": 0, "clickhouse_away": 0, "clickhouse_rejected": 0, "fault": 0}
    assert (figures["restarts"], figures["trouble"]) == (0, "")
    text = requests.get(f"{collector.url}/metrics", timeout=5).text
    assert 'mc_collector_refused_requests_total{failure="malformed_otlp"}' in text
    assert json.loads(requests.get(f"{collector.url}/health", timeout=5).text)["service"] == "collector"
