"""From a client's request to what a page asks: gateway, collector and ClickHouse, each a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from apps.telemetry import queries
from tests.clickhouse import CollectorProcess
from tests.waiting import until
from tests.wire.gateway import KEY, running


def test_what_clients_got_is_what_pages_are_told(
    tmp_path: Path, redis_url: str, clickhouse_url: str, settings: Any
) -> None:
    collector = CollectorProcess(tmp_path / "collector", clickhouse_url, f"edge_{tmp_path.name[-8:].replace('-', '_')}")
    settings.CLICKHOUSE_URL, settings.CLICKHOUSE_DATABASE = clickhouse_url, collector.database
    unsampled = f"traceparent: 00-{'ab' * 16}-{'cd' * 8}-00"
    with collector, running(tmp_path, redis_url, workers=2, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as gateway:
        for _ in range(41):
            gateway.get("/up/x", f"X-API-Key: {KEY}", unsampled)
        for _ in range(8):
            gateway.get("/open/status/500", unsampled)
        gateway.get("/up/x")
        gateway.get("/nowhere")
        since = time.time() - 60
        until(lambda: queries.edge_by_service(since).whole.requests == 50, 60, what="every routed request counted")
        bad, good = queries.edge_by_route(since).rows
        assert (bad.service, bad.route, bad.requests, bad.errors, bad.service_errors) == ("up", "open", 8, 8, 8)
        assert (good.route, good.requests, good.errors, good.refused) == ("up", 42, 0, 1)
        consumers = {row.consumer: row.requests for row in queries.edge_by_consumer(since).rows}
        assert consumers == {"tester": 41, "": 10}
        failures = {(row.route, row.status, row.failure): row.requests for row in queries.edge_failures(since).rows}
        assert failures == {
            ("open", 500, ""): 8, ("up", 401, "credentials_missing"): 1, ("", 404, "no_route"): 1,
        }  # fmt: skip
        assert queries.recent_traces(since=since, errors_only=True) == []
        newest = queries.edge_newest() or 0
        until(lambda: (queries.edge_newest() or 0) > newest, 40, what="a word of a gateway without traffic")
