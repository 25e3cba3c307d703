"""Quantiles from log-scale buckets stay within the error that is stated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core import edge
from apps.telemetry.quantiles import EDGE, SPANS, quantiles


def bucket(nanoseconds: int) -> int:
    """As schema/0002_red.sql puts a duration into its bucket."""
    return int(math.log2(max(nanoseconds, 1)) / math.log2(1.1))


@given(st.lists(st.integers(1_000, 10**12), min_size=1, max_size=300))
def test_every_quantile_is_within_the_stated_error(durations: list[int]) -> None:
    durations.sort()
    told = quantiles((bucket(duration), 1) for duration in durations)
    for share, value in zip((0.5, 0.95, 0.99), told, strict=True):
        true = durations[max(1, math.ceil(share * len(durations))) - 1] / 1e6
        assert value == pytest.approx(true, rel=SPANS.error + 1e-9)


@given(st.lists(st.floats(1e-6, 4000), min_size=1, max_size=300))
def test_the_gateways_buckets_keep_theirs_too(durations: list[float]) -> None:
    durations.sort()
    told = quantiles([(edge.bucket(duration), 1) for duration in durations], ladder=EDGE)
    for share, value in zip((0.5, 0.95, 0.99), told, strict=True):
        true = durations[max(1, math.ceil(share * len(durations))) - 1] * 1e3
        assert value == pytest.approx(true, rel=EDGE.error + 1e-9)


def test_nothing_counted_is_no_figure() -> None:
    assert quantiles([]) == [None, None, None]


def test_a_bucket_may_come_twice() -> None:
    assert quantiles([(100, 1), (200, 1), (100, 2)]) == quantiles([(100, 3), (200, 1)])
