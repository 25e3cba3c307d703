"""P4: what pages ask while ten million spans of the last hour are stored: the overview, one trace, an attribute.

The spans are made by ClickHouse itself (four services, five spans a trace, eight attributes, one in fifty failed),
through the views that fill the rollups, and as many requests at the gateway's edge beside them (4 services, 20
routes, 50 consumers). Each question is asked by the functions that pages use, over HTTP, cold first; the median counts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from django.conf import settings

from apps.dashboard.traffic import TrafficSource
from apps.telemetry import queries
from benchmarks.p3 import Plant, plant
from benchmarks.report import Falsified, Figure
from tests.waiting import until

QUICK = bool(os.environ.get("MC_BENCH_QUICK"))
SPANS = 200_000 if QUICK else 10_000_000
INSERT = 250_000
ASKED = 15
HOUR, AHEAD = 3600, 600
"""Seconds. The hour's end lies ahead, so that it is not over while it is filled and asked."""

# A trace is five spans in a row, its root first. Hashes stand for chance, so that a run is repeatable.
ROWS = """
INSERT INTO otel_traces
(Timestamp, TraceId, SpanId, ParentSpanId, SpanName, SpanKind, ServiceName, ResourceAttributes, ScopeName,
 SpanAttributes, Duration, StatusCode)
WITH intDiv(number, 5) AS trace, cityHash64(number) AS chance, cityHash64(trace) AS luck, number % 5 AS place
SELECT
    fromUnixTimestamp64Nano(toInt64({start} * 1e9 + number * {gap})),
    lower(concat(hex(luck), hex(sipHash64(trace)))),
    lower(hex(sipHash64(number, 1))),
    if(place = 0, '', lower(hex(sipHash64(number - 1, 1)))),
    concat('GET /v1/things/', toString(luck % 20)),
    if(place % 2 = 0, 'Server', 'Client'),
    ['gateway', 'nexus', 'covenant', 'mint'][luck % 4 + 1],
    map('service.version', '1.0.0', 'host.name', 'bench'),
    'bench',
    map('http.request.method', 'GET', 'http.route', concat('/v1/things/', toString(luck % 20)),
        'url.path', concat('/v1/things/', toString(chance % 10000)), 'server.address', '127.0.0.1',
        'user_agent.original', 'bench/1.0', 'mc.consumer', concat('consumer-', toString(luck % 50)),
        'order.id', concat('order-', toString(trace)), 'http.response.status_code', if(chance % 50 = 0, '503', '200')),
    toUInt64(exp(10 + chance % 1000 / 125) * 1000),
    if(chance % 50 = 0, 'Error', 'Unset')
FROM numbers({first}, {count})
SETTINGS max_execution_time = 300
"""
EDGE = """
INSERT INTO {table}
SELECT
    toDateTime({start} + intDiv(number, {each}) * {grain}),
    ['gateway', 'nexus', 'covenant', 'mint'][cityHash64(number) % 20 % 4 + 1] AS Service,
    concat('route-', toString(cityHash64(number) % 20)) AS Route,
    concat('consumer-', toString(sipHash64(number) % 50)) AS Consumer,
    if(sipHash64(number, 2) % 50 = 0, 503, 200) AS Status,
    if(sipHash64(number, 2) % 100 = 0, 'breaker_open', '') AS Failure,
    toInt16(sipHash64(number, 3) % 12) - 80 AS Bucket,
    {share} AS Count,
    toDateTime64({start} + (intDiv(number, {each}) + 1) * {grain}, 3) AS Newest
FROM numbers({rows})
SETTINGS max_execution_time = 300
"""


def fill(running: Plant) -> None:
    """Store SPANS spans and as many edge requests over an hour that ends AHEAD seconds from now."""
    start = time.time() - HOUR + AHEAD

    def store(first: int) -> None:
        count = min(INSERT, SPANS - first)
        running.ask(ROWS.format(start=start, gap=HOUR * 10**9 // SPANS, first=first, count=count))

    with ThreadPoolExecutor(2) as writers:
        list(writers.map(store, range(0, SPANS, INSERT)))
    for table, grain, each in (("otel_edge_10s", 10, 8000), ("otel_edge_1m", 60, 12_000)):
        steps = HOUR // grain
        share = max(1, SPANS // steps // each)
        running.ask(EDGE.format(table=table, start=int(start), grain=grain, each=each, share=share, rows=steps * each))
    # Merges build the index over attributes, in the minutes after an insert; here they get no minutes.
    running.ask("ALTER TABLE otel_traces MATERIALIZE INDEX idx_span_attr_value")
    undone = "SELECT count() FROM system.mutations WHERE NOT is_done"
    until(lambda: running.query(undone) == "0", 300, every=0.5, what="the index over attributes")
    stored = int(running.query("SELECT count() FROM otel_traces"))
    if stored != SPANS:
        raise Falsified(f"P4: {SPANS} spans wanted, {stored} stored")


def overview() -> Callable[[], None]:
    """What the overview reads of telemetry each time it is drawn anew."""
    source = TrafficSource()

    def ask() -> None:
        traffic = source.read()
        if len(traffic.routes) != 20 or not traffic.affected:
            raise Falsified(f"P4: the overview shows {len(traffic.routes)} routes")

    return ask


def one_trace(running: Plant) -> Callable[[], None]:
    """Open traces by their ids, another each time."""
    chance = random.Random(1)

    def ask() -> None:
        trace = chance.randrange(SPANS // 5)
        trace_id = running.query(
            f"WITH toUInt64({trace}) AS n SELECT lower(concat(hex(cityHash64(n)), hex(sipHash64(n))))"
        )
        spent.begin()
        totals = queries.trace_totals(trace_id)
        if totals is None or len(queries.spans_by_time(totals, limit=2000)) != 5:
            raise Falsified(f"P4: trace {trace_id} is not found whole")

    return ask


def attribute() -> None:
    """Find the one trace of an order, anywhere in the hour; another each time."""
    order = f"order-{random.randrange(SPANS // 5)}"
    found = queries.recent_traces(since=time.time() - 2 * HOUR, attribute=("order.id", order))
    if len(found) != 1:
        raise Falsified(f"P4: {order} was found in {len(found)} traces")


def common() -> None:
    """The newest traces of a route that one span in twenty has."""
    found = queries.recent_traces(since=time.time() - 2 * HOUR, attribute=("http.route", "/v1/things/7"))
    if len(found) != 50:
        raise Falsified(f"P4: {len(found)} traces of a common route")


class Clock:
    """Milliseconds of one question; a question may begin again after what is not part of it."""

    def __init__(self) -> None:
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.perf_counter()

    def took(self, ask: Callable[[], None]) -> float:
        self.begin()
        ask()
        return (time.perf_counter() - self._began) * 1e3


spent = Clock()


def figure(what: str, ask: Callable[[], None], must: float, aim: float) -> Figure:
    """The median of ASKED times, after one that doesn't count."""
    cold = spent.took(ask)
    times = sorted(spent.took(ask) for _ in range(ASKED))
    return Figure(
        id="P4",
        what=f"{what}, over {SPANS:,} spans of the last hour",
        ours=median(times),
        unit="ms",
        must=must,
        aim=aim,
        better="lower",
        note=f"{what}: first {cold:.0f} ms, slowest of {ASKED} {times[-1]:.0f} ms",
    )


def run() -> list[Figure]:
    """Fill, then ask."""
    with plant(pinned=False) as running:
        options: dict[str, Any] = {"CLICKHOUSE_URL": running.clickhouse_url, "CLICKHOUSE_DATABASE": "mission"}
        if not settings.configured:
            settings.configure(**options)
        for name, value in options.items():
            setattr(settings, name, value)
        began = time.monotonic()
        fill(running)
        filled = time.monotonic() - began
        figures = [
            figure("overview", overview(), 150, 50),
            figure("a trace by its id", one_trace(running), 50, 15),
            figure("search for a rare attribute", attribute, 500, 150),
            figure("search for a common attribute", common, 500, 150),
        ]
        print(f"P4: filled in {filled:.0f} s", flush=True)
    return figures
