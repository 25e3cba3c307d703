"""How far counters went up, asked of a real ClickHouse: restarts, processes that run on, and several at once."""

from __future__ import annotations

import time

from clickhouse_connect.driver.client import Client

from apps.dashboard import backlogs
from apps.dashboard.events import groups
from apps.telemetry import queries
from tests.contract.test_telemetry_queries import clickhouse

__all__ = ["clickhouse"]

NAMES = ["mc.gateway.dropped", "mc.redis.refused"]


def report(client: Client, service: str, process: str, metric: str, started: float, at: float, value: float) -> None:
    """One cumulative point, as a process exports it."""
    row = {
        "ServiceName": service,
        "ResourceAttributes": {"service.instance.id": process},
        "MetricName": metric,
        "StartTimeUnix": int(started * 1e9),
        "TimeUnix": int(at * 1e9),
        "Value": value,
        "AggregationTemporality": 2,
        "IsMonotonic": True,
    }
    client.insert("otel_metrics_sum", [list(row.values())], column_names=list(row))


def test_a_counter_grows_by_what_it_counted_since_then(clickhouse: Client) -> None:
    now = time.time()
    since, long_ago = now - 3600, now - 86_400
    for at, value in ((now - 5000, 80), (now - 3500, 100), (now - 10, 107)):
        report(clickhouse, "gateway", "runs on", "mc.gateway.dropped", long_ago, at, value)
    for at, value in ((now - 300, 3), (now - 10, 5)):
        report(clickhouse, "gateway", "started since", "mc.gateway.dropped", now - 400, at, value)
    report(clickhouse, "worker", "w", "mc.redis.refused", now - 60, now - 5, 2)
    report(clickhouse, "relay", "r", "mc.redis.refused", long_ago, now - 5, 40)
    report(clickhouse, "relay", "r", "mc.outbox.events", now - 60, now - 5, 9)
    for process, value in enumerate((float("inf"), float("-inf"), float("nan"), -7.0, 1e300)):
        report(clickhouse, "worker", f"odd {process}", "mc.redis.refused", now - 60, now - 5, value)
    found = [(one.service, one.metric, one.grown) for one in queries.counter_growth(NAMES, since)]
    assert found == [("gateway", "mc.gateway.dropped", 12), ("worker", "mc.redis.refused", 2)]


def test_a_gauge_is_what_it_said_last_and_nothing_that_is_old(clickhouse: Client) -> None:
    now = time.time()

    def say(service: str, process: str, broker: str, at: float, value: float) -> None:
        row = {
            "ServiceName": service,
            "ResourceAttributes": {"service.instance.id": process},
            "MetricName": backlogs.WAITING,
            "Attributes": {"broker": broker},
            "TimeUnix": int(at * 1e9),
            "Value": value,
        }
        clickhouse.insert("otel_metrics_gauge", [list(row.values())], column_names=list(row))

    say("covenant", "one", "kafka", now - 60, 900)
    say("covenant", "one", "kafka", now - 5, 7)
    say("covenant", "two", "kafka", now - 5, 3)
    say("covenant", "one", "redis", now - 5, 0)
    say("relay", "r", "kafka", now - 900, 5)
    found = queries.newest_gauges([backlogs.WAITING], "broker", now - 120)
    assert [(one.service, one.of, one.value) for one in found] == [("covenant", "kafka", 7), ("covenant", "redis", 0)]
    [row] = backlogs.waiting()
    say("s" * 200, "one", "buy now at example.org", now - 5, 7)
    assert [row] == list(groups.reports().waiting)
    assert (row.publisher, row.broker, row.events, row.away) == ("covenant", "kafka", 7, False)


def test_a_group_is_what_its_newest_member_said_and_since_when_it_is_behind(clickhouse: Client) -> None:
    now = time.time()

    def say(process: str, metric: str, group: str, ago: float, value: float) -> None:
        row = {
            "ServiceName": "mint",
            "ResourceAttributes": {"service.instance.id": process},
            "MetricName": metric,
            "Attributes": {"group": group} if group else {},
            "TimeUnix": int((now - ago) * 1e9),
            "Value": value,
        }
        clickhouse.insert("otel_metrics_gauge", [list(row.values())], column_names=list(row))

    for ago, value in ((4000, 0), (900, 2), (300, 50), (100, 900)):
        say("ended", "mc.bus.lag", "mint", ago, value)
    say("runs", "mc.bus.lag", "mint", 5, 40)
    say("runs", "mc.bus.parked", "mint", 5, 3)
    say("runs", "mc.bus.missing", "mint", 5, float("nan"))
    say("r", "mc.bus.lag", "always", 200, 70)
    say("r", "mc.bus.lag", "always", 100, 80)
    say("r", "mc.bus.lag", "long ago", 4000, 80)
    say("r", "mc.bus.lag", "", 5, 80)
    say("r", "mc.bus.lag", "tomorrow", -80_000, 1)
    found = groups.reports().groups
    mint, always = found["mint"], found["always"]
    assert found.keys() == {"mint", "always"}
    assert (mint.lag, mint.parked, mint.missing) == (40, 3, 0)
    assert abs(now - 5 - mint.heard_at) < 0.01
    assert mint.behind_since is not None and abs(now - 900 - mint.behind_since) < 0.01
    assert always.behind_since is not None and abs(now - 200 - always.behind_since) < 0.01
