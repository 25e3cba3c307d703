"""One suite for both buckets: GCRA in this process and the same arithmetic inside Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from apps.gateway.core.config import RateLimit
from apps.gateway.core.limits import Bucket
from apps.gateway.plane.limiter import TAKE

Take = Callable[[int], tuple[int, int, float]]
Make = Callable[[RateLimit], Take]


def in_process(limit: RateLimit) -> Take:
    bucket = Bucket(limit)

    def take(wanted: int) -> tuple[int, int, float]:
        grant = bucket.take(time.monotonic(), wanted)
        return grant.count, grant.remaining, grant.retry_after

    return take


@pytest.fixture(params=["process", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param == "process":
        yield in_process
        return
    with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
        script = client.register_script(TAKE)

        def in_redis(limit: RateLimit) -> Take:
            interval = limit.period * 1e6 / limit.requests
            tolerance = interval * (limit.burst or limit.requests)

            def take(wanted: int) -> tuple[int, int, float]:
                count, remaining, retry = script(keys=["bucket"], args=[repr(interval), repr(tolerance), wanted])
                return count, remaining, retry / 1e6

            return take

        yield in_redis


def test_the_burst_passes_and_then_nothing(make: Make) -> None:
    take = make(RateLimit("a", 10, 3600.0))
    assert [take(1)[:2] for _ in range(11)] == [(1, left) for left in range(9, -1, -1)] + [(0, 0)]


def test_a_lease_takes_what_fits_and_no_more(make: Make) -> None:
    take = make(RateLimit("a", 10, 3600.0))
    assert take(7)[:2] == (7, 3)
    assert take(7)[:2] == (3, 0)
    assert take(7)[:2] == (0, 0)


def test_it_says_when_the_next_would_pass_and_keeps_its_word(make: Make) -> None:
    take = make(RateLimit("a", 10, 1.0, 1))
    assert take(1)[0] == 1
    count, _, retry_after = take(1)
    assert count == 0 and 0 < retry_after <= 0.1
    time.sleep(retry_after + 0.005)
    assert take(1)[0] == 1


def test_the_bucket_refills_at_the_rate_and_never_over_the_burst(make: Make) -> None:
    take = make(RateLimit("a", 100, 1.0, 5))
    assert take(5)[0] == 5
    time.sleep(0.2)
    assert take(50)[0] == 5


@pytest.mark.parametrize(("requests", "period"), [(3, 1000.0), (7, 1000.0), (10, 3000.0)])
def test_thirds_and_tenths_do_not_lose_a_request_to_rounding(make: Make, requests: int, period: float) -> None:
    take = make(RateLimit("a", requests, period))
    assert take(requests)[0] == requests
    assert take(1)[0] == 0


@pytest.mark.parametrize("odd", ["", "soon", "nan", "inf", "-inf", "1e300", "-5", ["a", "list"]])
def test_an_odd_value_under_a_key_is_an_empty_bucket_and_costs_the_others_of_its_batch_nothing(
    redis_url: str, odd: Any
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.delete("odd", "sound")
        client.set("odd", odd) if isinstance(odd, str) else client.rpush("odd", *odd)
        take = client.register_script(TAKE)
        interval, tolerance = 10_000.0, 50_000.0

        def ask() -> list[int]:
            return take(keys=["odd", "sound"], args=[interval, tolerance, 1] * 2)

        assert ask() == [1, 4, 0] * 2
        assert client.type("odd") == b"string" and ask()[1] >= 3
