"""A small run of ``make chaos``: parts die while events go over all three brokers, and every promise holds."""

from __future__ import annotations

import pytest

from tests.chaos.run import Plan, run

pytestmark = [pytest.mark.rabbitmq, pytest.mark.kafka, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("on_postgres", [pytest.param(True, marks=pytest.mark.postgres), False])
def test_nothing_is_lost_or_done_twice_or_out_of_order_whoever_dies(on_postgres: bool) -> None:
    report = run(Plan(2_000, 1, seed=7, on_postgres=on_postgres, poison_every=100))
    assert report.clean, report.table()
    killed = {"redis": 1, "rabbitmq": 1, "kafka": 1, "relay": 1, "service": 1, "publisher": 1, "consumer": 2} | (
        {"database": 1} if on_postgres else {}
    )
    assert all(report.kills[kind] >= count for kind, count in killed.items()), report.kills
    assert report.total.accepted == 2_000
    assert report.total.parked == report.total.redriven > 0
