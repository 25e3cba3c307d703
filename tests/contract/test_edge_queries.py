"""The gateway's counts, by its own encoder and the collector's decoder into a real ClickHouse, and asked again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client

from apps.gateway.core.edge import Edge, Encoder, Labels
from apps.lib.proof import Sender
from apps.telemetry import queries
from apps.telemetry.collector.metrics import MetricDecoder
from apps.telemetry.quantiles import EDGE
from tests.contract.test_telemetry_queries import clickhouse

__all__ = ["clickhouse"]


class Teller:
    """Stands where a gateway stands: counts requests and has them stored."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._encoder = Encoder({"service.name": "gateway"}, "scope")
        self._edge = Edge()

    def say(
        self, service: str, route: str, consumer: str, status: int, failure: str = "", *, n: int = 1, ms: float = 10
    ) -> None:
        for _ in range(n):
            self._edge.tally(Labels(service, route, consumer, status, failure)).add(ms / 1e3)

    def store(self, at: float | None = None) -> None:
        """What was said, or that nothing was."""
        now = int((time.time() if at is None else at) * 1e9)
        for block in (
            MetricDecoder().decode(self._encoder.encode(self._edge.take(), now, now), time.time(), Sender.OURS).blocks
        ):
            self._client.raw_insert(block.table, insert_block=block.data, fmt="Native")


@pytest.fixture
def teller(clickhouse: Client) -> Iterator[Teller]:
    yield Teller(clickhouse)


def test_a_service_is_judged_by_what_its_clients_got(teller: Teller) -> None:
    teller.say("mint", "mint-api", "acme", 200, n=90, ms=100)
    teller.say("mint", "mint-api", "acme", 500, n=4, ms=200)
    teller.say("mint", "mint-api", "acme", 503, "breaker_open", n=3, ms=0.1)
    teller.say("mint", "mint-api", "acme", 504, "upstream_timeout", ms=3000)
    teller.say("mint", "mint-api", "acme", 429, "rate_limited", n=5, ms=0.1)
    teller.say("mint", "mint-api", "", 401, "key_unknown", n=6, ms=0.1)
    teller.say("mint", "mint-api", "acme", 404, n=2)
    teller.say("mint", "mint-api", "acme", 499, "client_closed")
    teller.say("nexus", "nexus-api", "acme", 200)
    teller.say("", "", "", 404, "no_route", n=7)
    teller.store()
    report = queries.edge_by_service(time.time() - 60)
    assert [row.service for row in report.rows] == ["mint", "nexus"]
    mint = report.rows[0]
    assert (mint.requests, mint.errors, mint.service_errors) == (112, 8, 4)
    assert (mint.limited, mint.client_errors, mint.abandoned) == (5, 8, 1)
    assert mint.refused == 3 + 1 + 5 + 6
    assert mint.error_rate == pytest.approx(8 / 112)
    assert mint.rate == pytest.approx(112 / (report.until - report.since))
    assert mint.p50_ms == pytest.approx(100, rel=EDGE.error), "refusals at the door do not flatter the latency"
    assert mint.p99_ms == pytest.approx(3000, rel=EDGE.error), "and a timeout took the time it took"
    assert (report.whole.requests, report.names) == (113, 2)
    assert time.time() - (report.newest or 0) < 5


def test_a_bad_deploy_on_one_route_shows_on_that_route(teller: Teller) -> None:
    teller.say("mint", "good", "acme", 200, n=41)
    teller.say("mint", "bad", "acme", 500, n=23)
    teller.say("mint", "bad", "beta", 200, n=2)
    teller.store()
    bad, good = queries.edge_by_route(time.time() - 60, service="mint").rows
    assert (bad.service, bad.route, bad.requests, bad.errors) == ("mint", "bad", 25, 23)
    assert (good.route, good.errors) == ("good", 0)
    acme, beta = queries.edge_by_consumer(time.time() - 60, route="bad").rows
    assert (acme.consumer, acme.errors, beta.consumer, beta.errors) == ("acme", 23, "beta", 0)
    affected = queries.edge_affected(time.time() - 60)
    assert (affected.failed, affected.consumers) == (23, 1)
    assert [(one.consumer, one.route, one.failed, one.requests) for one in affected.rows] == [("acme", "bad", 23, 23)]
    assert time.time() - affected.rows[0].last_at < 30


def test_lists_are_bounded_and_their_totals_are_not(teller: Teller) -> None:
    for number in range(300):
        teller.say("mint", "bad", f"consumer-{number}", 500, n=2)
        teller.say("mint", "bad", f"consumer-{number}", 429, "rate_limited")
    teller.store()
    affected = queries.edge_affected(time.time() - 60, limit=20)
    assert (len(affected.rows), affected.failed, affected.consumers) == (20, 600, 300)
    consumers = queries.edge_by_consumer(time.time() - 60, limit=50)
    assert (len(consumers.rows), consumers.names, consumers.whole.errors) == (50, 300, 600)
    failures = queries.edge_failures(time.time() - 60, limit=1)
    assert (failures.requests, failures.ways, failures.rows[0].status) == (900, 2, 500)
    assert failures.rows[0].consumers == 300


def test_refusals_are_told_by_their_failure(teller: Teller) -> None:
    teller.say("mint", "api", "acme", 429, "rate_limited", n=3)
    teller.say("mint", "api", "", 401, "key_expired", n=2)
    teller.say("", "", "", 404, "no_route")
    teller.say("mint", "api", "acme", 404, n=9)
    teller.store()
    found = queries.edge_failures(time.time() - 60)
    assert [(one.service, one.status, one.failure, one.requests) for one in found.rows] == [
        ("mint", 429, "rate_limited", 3), ("mint", 401, "key_expired", 2), ("", 404, "no_route", 1),
    ]  # fmt: skip
    assert queries.edge_failures(time.time() - 60, consumer="acme").requests == 3


def test_a_series_adds_up_and_minutes_agree_with_tens_of_seconds(teller: Teller) -> None:
    base = int(time.time() // 600 * 600) - 10_800
    for number in range(12):
        teller.say("mint", "api", "acme", 500 if number % 2 else 200, n=10)
        teller.store(base + number * 10 + 1)
    points = queries.edge_series(base, base + 120, 30, service="mint")
    assert [(point.requests, point.errors) for point in points] == [(30, 10), (30, 20), (30, 10), (30, 20)]
    minutes = queries.edge_series(base, base + 180, 60)
    assert [(point.requests, point.errors, point.p50_ms is None) for point in minutes] == [
        (60, 30, False), (60, 30, False), (0, 0, True),
    ]  # fmt: skip
    assert queries.edge_sparks(base, base + 180, 60) == {"mint": [1.0, 1.0, 0.0]}
    long_ago = queries.edge_by_route(base, base + 120)
    assert (long_ago.whole.requests, long_ago.rows[0].errors) == (120, 60)


def test_a_window_ends_before_the_step_that_begins_at_its_end(teller: Teller) -> None:
    base = int(time.time() // 600 * 600) - 3600
    teller.say("mint", "api", "acme", 200, n=30)
    teller.store(base + 31)
    teller.say("mint", "api", "acme", 200, n=60)
    teller.store(base + 61)
    assert queries.edge_sparks(base, base + 60, 60) == {"mint": [0.5]}
    assert queries.edge_by_service(base, base + 60).whole.requests == 30


def test_silence_is_told_from_no_traffic(teller: Teller, clickhouse: Client) -> None:
    assert queries.edge_newest() is None
    assert queries.edge_by_service(time.time() - 60).newest is None
    said = time.time() - 40
    teller.store(said)
    clickhouse.command("OPTIMIZE TABLE otel_edge_10s FINAL")
    quiet = queries.edge_by_service(time.time() - 10)
    assert quiet.rows == () and quiet.whole.requests == 0
    assert quiet.newest == pytest.approx(said, abs=0.01)


def test_a_gateway_whose_clock_is_ahead_counts_as_now(teller: Teller) -> None:
    teller.say("mint", "api", "acme", 200)
    teller.store(time.time() + 3600)
    report = queries.edge_by_service(time.time() - 60)
    assert report.whole.requests == 1
    assert (report.newest or 0) <= time.time() + 1


@pytest.mark.parametrize("name", ["' OR 1=1 --", "{x:String}", "a`b", "\\"])
def test_names_are_values_and_never_sql(teller: Teller, name: str) -> None:
    teller.say("mint", "api", "acme", 200)
    teller.store()
    assert queries.edge_by_route(time.time() - 60, service=name).rows == ()
    assert queries.edge_failures(time.time() - 60, consumer=name).rows == ()
