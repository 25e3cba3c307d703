from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core.config import RateLimit
from apps.gateway.core.limits import Bucket, lease_size


def test_small_limits_are_leased_one_by_one_and_large_ones_in_bulk() -> None:
    assert lease_size(RateLimit("a", 5, 60.0)) == 1
    assert lease_size(RateLimit("a", 200)) == 10
    assert lease_size(RateLimit("a", 1000, 1.0, 8)) == 2  # never more than a part of the burst
    assert lease_size(RateLimit("a", 1)) == 1


def test_a_share_of_the_limit_is_a_share_of_rate_and_burst() -> None:
    bucket = Bucket(RateLimit("a", 10, 1.0, 20), share=0.5)
    assert sum(bucket.take(0.0).count for _ in range(50)) == 10
    assert sum(bucket.take(1.0).count for _ in range(50)) == 5


@given(
    requests=st.integers(1, 50),
    period=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    arrivals=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 10)), max_size=60),
)
def test_no_window_ever_passes_more_than_burst_and_rate(
    requests: int, period: float, burst: int, arrivals: list[tuple[float, int]]
) -> None:
    bucket = Bucket(RateLimit("a", requests, period, burst))
    passed: list[tuple[float, int]] = []
    now = 0.0
    for gap, wanted in arrivals:
        now += gap * period / requests
        grant = bucket.take(now, wanted)
        assert 0 <= grant.count <= wanted
        if grant.count:
            passed.append((now, grant.count))
    for index, (since, _) in enumerate(passed):
        total = 0
        for at, count in passed[index:]:
            total += count
            assert total <= burst + (at - since) * requests / period + 1e-6
