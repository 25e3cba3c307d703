"""Rate limits across workers, over real connections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from apps.gateway.core import config
from apps.lib import wire
from tests.waiting import until
from tests.wire.engines import redis_server
from tests.wire.gateway import KEY, Answer, Gateway, hashed, running

OTHER = "mc_othertwo_" + "o" * 40


@pytest.fixture
def pair(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    with running(tmp_path, redis_url, workers=2) as found:
        until(lambda: len(found.workers_seen()) == 2, 5, what="two workers")
        yield found


def limit(gateway: Gateway, requests: int, period: float, burst: int | None = None) -> None:
    gateway.publish(
        rate_limits=(config.RateLimit("small", requests, period, burst),),
        routes=(
            config.Route("up", "up", "/up", rate_limit="small"),
            config.Route("open", "up", "/open", auth=(), rate_limit="small"),
        ),
        consumers=(config.Consumer("tester"), config.Consumer("other")),
        keys=(config.Key(hashed(KEY), KEY[:11], "tester"), config.Key(hashed(OTHER), OTHER[:11], "other")),
    )


def storm(gateway: Gateway, count: int, key: str = KEY) -> list[Answer]:
    """Requests on connections of their own, many at once, so that every worker gets some."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda _: gateway.get("/up/x", f"X-API-Key: {key}"), range(count)))


def test_two_workers_share_one_limit_to_the_request(pair: Gateway) -> None:
    limit(pair, 50, 3600.0)
    answers = storm(pair, 200)
    assert sum(answer.status == 200 for answer in answers) == 50
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 150
    assert {answer.failure for answer in refused} == {"rate_limited"}
    assert all(0 < int(answer.fields["retry-after"]) <= 72 for answer in refused)


def test_leased_limits_are_never_exceeded(pair: Gateway) -> None:
    limit(pair, 400, 1.0, 400)  # leased twenty at a time
    began = time.monotonic()
    answers = storm(pair, 700)
    took = time.monotonic() - began
    passed = sum(answer.status == 200 for answer in answers)
    # 400 at once, and 400/s while the storm lasts.
    assert 350 <= passed <= 400 + 400 * took


def test_each_consumer_has_a_bucket_of_its_own(pair: Gateway) -> None:
    limit(pair, 3, 3600.0)
    assert [answer.status for answer in storm(pair, 3)] == [200] * 3
    assert pair.get("/up/x", f"X-API-Key: {KEY}").status == 429
    assert pair.get("/up/x", f"X-API-Key: {OTHER}").status == 200


def test_the_answer_carries_the_limit_and_what_is_left(pair: Gateway) -> None:
    limit(pair, 5, 60.0)
    left = []
    for _ in range(6):
        answer = pair.get("/open/x")
        assert answer.fields["ratelimit-policy"] == '"small";q=5;w=60'
        left.append(answer.fields["ratelimit"].split(";")[1])
    assert left == ["r=4", "r=3", "r=2", "r=1", "r=0", "r=0"]


def test_a_refused_request_passes_after_the_time_it_was_told(pair: Gateway) -> None:
    limit(pair, 2, 2.0)
    while pair.get("/up/x", f"X-API-Key: {KEY}").status == 200:
        pass
    assert pair.get("/up/x", f"X-API-Key: {KEY}").fields["retry-after"] == "1"
    until(lambda: pair.get("/up/x", f"X-API-Key: {KEY}").status == 200, 1.5)


def test_a_consumers_own_limit_overrides_the_routes(pair: Gateway) -> None:
    limit(pair, 1, 3600.0)
    pair.publish(
        rate_limits=(*pair.document.rate_limits, config.RateLimit("wide", 1000)),
        consumers=(config.Consumer("tester", rate_limit="wide"), config.Consumer("other")),
    )
    assert [answer.status for answer in storm(pair, 5)] == [200] * 5


def test_without_redis_each_worker_keeps_its_share(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (url, process), running(tmp_path, url, workers=2) as pair:
        until(lambda: len(pair.workers_seen()) == 2, 5)
        limit(pair, 40, 3600.0)
        # Both workers must know that they are two before Redis goes.
        until(lambda: pair.acknowledged() == 2, 5)
        process.kill()
        process.wait(5)
        answers = storm(pair, 300)
        passed = sum(answer.status == 200 for answer in answers)
        assert {answer.status for answer in answers} == {200, 429}
        assert 20 <= passed <= 40


def test_five_hundred_subjects_at_once_are_all_decided_by_the_shared_buckets(tmp_path: Path, redis_url: str) -> None:
    keys = [f"mc_crowd{number:03d}_" + "c" * 40 for number in range(500)]
    with running(tmp_path, redis_url) as gateway, contextlib.ExitStack() as stack:
        gateway.publish(
            services=gateway.service(idle_connections=500, connect_timeout=10.0),
            rate_limits=(config.RateLimit("each", 1, 3600.0),),
            routes=(config.Route("up", "up", "/up", rate_limit="each"),),
            consumers=tuple(config.Consumer(f"crowd-{number}") for number in range(500)),
            keys=tuple(config.Key(hashed(key), key[:11], f"crowd-{number}") for number, key in enumerate(keys)),
        )
        crowd = [stack.enter_context(contextlib.closing(gateway.connect(30))) for _ in keys]
        for expected in (200, 429):
            for connection, key in zip(crowd, keys, strict=True):
                connection.send("GET /up/x HTTP/1.1", "Host: a", f"X-API-Key: {key}")
            assert {connection.read().status for connection in crowd} == {expected}
        with gateway.redis() as client:
            assert len(set(client.scan_iter(f"{wire.LIMIT_PREFIX}each:*", count=1000))) == 500
        assert "Redis is away" not in gateway.logs()
