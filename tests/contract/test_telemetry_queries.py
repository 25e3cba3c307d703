"""RED figures and traces, asked of a real ClickHouse through the functions that pages use, and by REST."""

from __future__ import annotations

import itertools
import math
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from django.contrib.auth.models import Group, User
from rest_framework.test import APIClient

from apps.lib.roles import VIEWER
from apps.telemetry import queries
from apps.telemetry.quantiles import SPANS
from apps.telemetry.queries import traces
from apps.telemetry.schema import runner
from tests.waiting import free_port, patient


@pytest.fixture
def clickhouse(clickhouse_url: str, settings: Any) -> Iterator[Client]:
    name = f"queries_{uuid.uuid4().hex[:12]}"
    client = clickhouse_connect.get_client(dsn=clickhouse_url, autogenerate_session_id=False)
    runner.apply(client, name)
    settings.CLICKHOUSE_URL, settings.CLICKHOUSE_DATABASE = clickhouse_url, name
    yield client
    client.command(f"DROP DATABASE {name}")
    client.close()


def span(trace_id: str, span_id: str, at: float, ms: float, **fields: Any) -> dict[str, Any]:
    """One row of otel_traces: a server span of ``gateway`` unless told otherwise."""
    return {
        "Timestamp": int(at * 1e9),
        "TraceId": trace_id,
        "SpanId": span_id,
        "SpanName": "GET /x",
        "SpanKind": "Server",
        "ServiceName": "gateway",
        "Duration": int(ms * 1e6),
        "StatusCode": "Unset",
        "SpanAttributes": {"http.route": "/x"},
    } | fields


def store(client: Client, *rows: dict[str, Any]) -> None:
    names = sorted({name for row in rows for name in row})
    blanks = {"ParentSpanId": "", "StatusMessage": ""}
    client.insert(
        "otel_traces", [[row.get(name, blanks.get(name)) for name in names] for row in rows], column_names=names
    )


def ident(number: int) -> str:
    return format(number, "032x")


def test_what_a_clock_ahead_says_of_times_to_come_is_not_of_this_minute(clickhouse: Client) -> None:
    now = time.time()
    store(
        clickhouse,
        span(ident(1), "s", now - 1, 10),
        *(span(ident(2), f"a{ahead}", now + 120 + ahead, 10) for ahead in range(60)),
    )
    assert queries.red_by_service(60)["gateway"].requests == 1
    assert [row.requests for row in queries.red_by_operation("gateway", 600)] == [1]


def test_rate_errors_and_quantiles_of_the_last_minute(clickhouse: Client) -> None:
    now = time.time()
    store(
        clickhouse,
        *(
            span(ident(n), f"{n:016x}", now - 2, n, StatusCode="Error" if n % 10 == 0 else "Unset")
            for n in range(1, 201)
        ),
        *(span(ident(n), f"b{n:015x}", now - 2, 999, SpanKind="Client", ServiceName="nexus") for n in range(1, 5)),
        span(ident(999), "c" * 16, now - 300, 5000),
    )
    found = queries.red_by_service(60)
    assert list(found) == ["gateway"]
    red = found["gateway"]
    assert (red.requests, red.errors, red.error_rate) == (200, 20, 0.1)
    assert 60 <= red.window_s <= 71
    assert red.rate == pytest.approx(200 / red.window_s)
    assert red.p50_ms == pytest.approx(100, rel=SPANS.error)
    assert red.p95_ms == pytest.approx(190, rel=SPANS.error)
    assert red.p99_ms == pytest.approx(198, rel=SPANS.error)


def test_a_series_holds_every_step_and_nothing_is_counted_twice(clickhouse: Client) -> None:
    base = math.floor(time.time() / 60) * 60 - 120
    store(clickhouse, *(span(ident(n), f"{n:016x}", base + n, 10, StatusCode="Error") for n in range(60)))
    points = queries.red_series("gateway", base, base + 90, 30)
    assert [point.at for point in points] == [base, base + 30, base + 60]
    assert [(point.requests, point.errors) for point in points] == [(30, 30), (30, 30), (0, 0)]
    assert points[0].p99_ms == pytest.approx(10, rel=SPANS.error)
    assert points[2].p50_ms is None
    assert queries.sparks(base, base + 90, 30) == {"gateway": [1.0, 1.0, 0.0]}
    assert queries.red_series("nobody", base, base + 30, 30)[0].requests == 0


def test_a_long_series_is_bounded(clickhouse: Client) -> None:
    now = time.time()
    assert len(queries.red_series("gateway", now - 90 * 86_400, now, 10)) <= queries.MOST_POINTS


def test_operations_by_traffic(clickhouse: Client) -> None:
    now = time.time()
    store(
        clickhouse,
        *(span(ident(n), f"{n:016x}", now, 20, SpanName="busy") for n in range(5)),
        *(
            span(ident(n), f"a{n:015x}", now, 40, SpanName="calm", SpanKind="Consumer", StatusCode="Error")
            for n in range(2)
        ),
    )
    busy, calm = queries.red_by_operation("gateway")
    assert (busy.name, busy.requests, busy.errors) == ("busy", 5, 0)
    assert (calm.name, calm.requests, calm.errors) == ("calm", 2, 2)
    assert calm.p50_ms == pytest.approx(40, rel=SPANS.error)


def test_one_trace_over_services_batches_and_midnight(clickhouse: Client) -> None:
    trace_id = ident(7)
    midnight = math.floor(time.time() / 86_400) * 86_400 - 0.5
    store(clickhouse, span(trace_id, "1" * 16, midnight, 900, SpanName="root"))
    store(clickhouse, span(trace_id, "2" * 16, midnight + 0.6, 100, ParentSpanId="1" * 16, ServiceName="nexus",
                           StatusCode="Error", StatusMessage="broke"))  # fmt: skip
    store(clickhouse, span(ident(8), "3" * 16, midnight, 1))
    root, child = queries.trace(trace_id)
    assert (root.name, root.parent_span_id, root.service, root.kind, root.status) == (
        "root",
        "",
        "gateway",
        "Server",
        "Unset",
    )
    assert root.started_at == pytest.approx(midnight, abs=1e-6)
    assert root.duration_ms == 900
    assert root.attributes == {"http.route": "/x"}
    assert (child.parent_span_id, child.service, child.status, child.status_message) == (
        "1" * 16,
        "nexus",
        "Error",
        "broke",
    )
    (summary,) = queries.recent_traces(since=midnight - 10, name="root")
    assert (summary.trace_id, summary.name, summary.service) == (trace_id, "root", "gateway")
    assert (summary.spans, summary.errors, summary.services) == (2, 1, ("gateway", "nexus"))
    assert summary.duration_ms == pytest.approx(900)
    assert queries.trace(ident(12345)) == []


def large_trace(client: Client, *, spans: int = 5000, failed: tuple[int, ...] = (4321,), slow: int = 3333) -> str:
    """A trace whose root is first; span ``n`` starts ``n`` ms later."""
    at = time.time() - 60
    rows = []
    for n in range(spans):
        fields: dict[str, Any] = {"ParentSpanId": f"{1:016x}" if n else "", "SpanName": f"op {n}"}
        fields["StatusCode"] = "Error" if n in failed else "Unset"
        rows.append(span(ident(77), f"{n + 1:016x}", at + n / 1000, 900 if n == slow else 1, **fields))
    store(client, *rows)
    return ident(77)


def test_the_totals_of_a_large_trace_are_of_the_whole(clickhouse: Client) -> None:
    totals = queries.trace_totals(large_trace(clickhouse))
    assert totals is not None
    assert (totals.spans, totals.errors, totals.name, totals.services) == (5000, 1, "op 0", ("gateway",))
    assert totals.duration_ms == pytest.approx(5000, abs=1)
    telling = queries.telling_spans(totals, limit=100)
    assert len(telling) == 100
    assert {"op 0", "op 3333", "op 4321"} <= {one.name for one in telling}
    assert telling == sorted(telling, key=lambda one: one.started_at)
    window = queries.spans_by_time(totals, limit=10, offset=4995)
    assert [one.name for one in window] == [f"op {n}" for n in range(4995, 5000)]
    assert queries.trace_totals(ident(12345)) is None


def test_rest_pages_through_a_large_trace_and_tells_its_whole(clickhouse: Client, viewer: APIClient) -> None:
    trace_id = large_trace(clickhouse, spans=300, failed=(299,))
    first = viewer.get(f"/api/v1/traces/{trace_id}?limit=200").data
    assert (len(first["spans"]), first["total"], first["errors"]) == (200, 300, 1)
    rest = viewer.get(f"/api/v1/traces/{trace_id}?limit=200&offset=200").data
    assert (len(rest["spans"]), rest["spans"][-1]["status"]) == (100, "Error")
    assert viewer.get(f"/api/v1/traces/{trace_id}?offset=-1").status_code == 400


def test_recent_traces_are_filtered_by_their_spans(clickhouse: Client) -> None:
    now = time.time()
    store(
        clickhouse,
        span(ident(1), "1" * 16, now - 30, 10, SpanName="GET /alpha"),
        span(ident(2), "2" * 16, now - 20, 500, SpanName="GET /beta", StatusCode="Error"),
        span(ident(2), "3" * 16, now - 20, 400, SpanName="inner", ServiceName="nexus", ParentSpanId="2" * 16),
        span(ident(3), "4" * 16, now - 10, 20, SpanName="orphan", ServiceName="mint", ParentSpanId="f" * 16),
        span(ident(4), "5" * 16, now - 5000, 20),
    )

    def ids(**filters: Any) -> list[int]:
        return [int(found.trace_id, 16) for found in queries.recent_traces(**{"since": now - 3600} | filters)]

    assert ids() == [3, 2, 1]
    assert ids(limit=2) == [3, 2]
    assert ids(service="nexus") == [2]
    assert ids(name="ALPHA") == [1]
    assert ids(errors_only=True) == [2]
    assert ids(min_ms=15) == [3, 2]
    assert ids(service="nexus", errors_only=True) == []
    assert ids(attribute=("http.route", "/x")) == [3, 2, 1]
    assert ids(attribute=("http.route", "/x"), errors_only=True) == [2]
    assert ids(attribute=("http.route", "/")) == ids(attribute=("other", "/x")) == []
    assert ids(attribute=("' OR 1=1 --", "{value:String}")) == []
    assert ids(until=now - 15) == [2, 1]
    assert ids(since=now - 6000) == [3, 2, 1, 4]
    assert ids(service="' OR 1=1 --") == []
    orphan = queries.recent_traces(since=now - 15)[0]
    assert (orphan.name, orphan.service) == ("orphan", "mint")


@pytest.mark.parametrize(("since", "until"), [(1000.0, 9000.0), (8999.0, 9000.0), (9000.0, 9000.0), (0.0, None)])
def test_a_search_goes_back_in_widening_steps_and_leaves_no_gap(since: float, until: float | None) -> None:
    slices = list(traces._slices(since, until))
    assert slices[-1][0] == since
    assert all(later[1] == earlier[0] for earlier, later in itertools.pairwise(slices))
    assert until is None or slices[0][1] == until
    assert len(slices) <= 20


@pytest.mark.parametrize("url", ["refused", "silent"])
def test_away_is_told_within_its_time(settings: Any, url: str, silent_port: int) -> None:
    settings.CLICKHOUSE_URL = f"http://127.0.0.1:{silent_port if url == 'silent' else free_port()}"
    started = time.monotonic()
    with pytest.raises(queries.TelemetryAway):
        queries.red_by_service()
    assert time.monotonic() - started < patient(5)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_no_schema_yet_is_away_and_not_an_error(clickhouse_url: str, settings: Any) -> None:
    settings.CLICKHOUSE_URL, settings.CLICKHOUSE_DATABASE = clickhouse_url, "not_made_yet"
    with pytest.raises(queries.TelemetryAway):
        queries.red_by_service()


@pytest.mark.parametrize("login", ["default:wrong", "nobody:known"])
def test_an_engine_that_refuses_our_login_is_away_and_says_so(clickhouse_url: str, settings: Any, login: str) -> None:
    """Its password was changed, or it is a stranger's at the same port: pages go on without it."""
    settings.CLICKHOUSE_URL = f"http://{login}@{urlsplit(clickhouse_url).netloc.rpartition('@')[2]}"
    with pytest.raises(queries.TelemetryAway, match="refuses the login in CLICKHOUSE_URL"):
        queries.red_by_service()


@pytest.fixture
def viewer(db: None) -> APIClient:
    user = User.objects.create_user("viewer")
    user.groups.add(Group.objects.get_or_create(name=VIEWER)[0])
    client = APIClient()
    client.force_authenticate(user)
    return client


def test_rest_lists_and_fetches_traces(clickhouse: Client, viewer: APIClient) -> None:
    now = time.time()
    store(clickhouse, span(ident(1), "1" * 16, now - 3, 10), span(ident(2), "2" * 16, now - 2, 10, StatusCode="Error"))
    listed = viewer.get("/api/v1/traces")
    assert listed.status_code == 200
    assert [found["trace_id"] for found in listed.data["results"]] == [ident(2), ident(1)]
    assert [found["trace_id"] for found in viewer.get("/api/v1/traces?errors=true&limit=1").data["results"]] == [
        ident(2)
    ]
    assert len(viewer.get("/api/v1/traces?attribute=http.route=/x").data["results"]) == 2
    assert viewer.get("/api/v1/traces?attribute=http.route=/y").data["results"] == []
    one = viewer.get(f"/api/v1/traces/{ident(1).upper()}")
    assert one.status_code == 200
    assert one.data["services"] == ["gateway"]
    assert one.data["duration_ms"] == pytest.approx(10, rel=1e-3)
    assert one.data["spans"][0]["attributes"] == {"http.route": "/x"}


@pytest.mark.parametrize(
    ("path", "status", "failure"),
    [
        ("/api/v1/traces/xyz", 400, "invalid_trace_id"),
        (f"/api/v1/traces/{'0' * 31}", 400, "invalid_trace_id"),
        (f"/api/v1/traces/{'a' * 32}", 404, "not_found"),
        ("/api/v1/traces?limit=0", 400, "invalid"),
        ("/api/v1/traces?limit=many", 400, "invalid"),
        ("/api/v1/traces?min_ms=-1", 400, "invalid"),
        ("/api/v1/traces?since=nan", 400, "invalid"),
        ("/api/v1/traces?attribute=http.route", 400, "invalid"),
        ("/api/v1/traces?attribute==x", 400, "invalid"),
        ("/api/v1/traces?since=20&until=10", 400, "invalid"),
        ("/api/v1/traces?service=" + "x" * 300, 400, "invalid"),
    ],
)
def test_rest_refuses_bad_questions(
    clickhouse: Client, viewer: APIClient, path: str, status: int, failure: str
) -> None:
    answer = viewer.get(path)
    assert (answer.status_code, answer.data["failure"]) == (status, failure)


def test_rest_says_when_telemetry_is_away(viewer: APIClient, settings: Any) -> None:
    settings.CLICKHOUSE_URL = f"http://127.0.0.1:{free_port()}"
    answer = viewer.get("/api/v1/traces")
    assert (answer.status_code, answer.data["failure"]) == (503, "telemetry_away")
    assert int(answer["Retry-After"]) >= 1


def test_rest_needs_a_role(db: None) -> None:
    assert APIClient().get("/api/v1/traces").status_code == 401
