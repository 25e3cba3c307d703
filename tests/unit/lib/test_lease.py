"""One of several at a time."""

from __future__ import annotations

import pytest
import redis

from apps.lib.lease import Lease
from tests.waiting import until

NAME = "mc:test:lease"


def test_one_holds_it_until_it_lapses_or_is_given_back(redis_url: str) -> None:
    first, second = Lease(redis_url, NAME, 10.0), Lease(redis_url, NAME, 10.0)
    assert first.hold(5.0) == 0.0
    assert 4.0 < second.hold(5.0) <= 5.0, "when to ask again"
    assert first.hold(8.0) == 0.0, "renewed"
    assert 7.0 < second.hold(5.0) <= 8.0
    second.give_back()
    assert second.hold(5.0) > 0, "what another holds is not given back"
    first.give_back()
    assert second.hold(0.2) == 0.0
    until(lambda: first.hold(5.0) == 0.0, 5, what="the lease of one that says nothing more")


@pytest.mark.parametrize("kind", ["for ever", "for a day", "a list"])
def test_a_lease_that_is_none_of_ours_holds_nobody_up(kind: str, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        if kind == "a list":
            client.rpush(NAME, "x")
        else:
            client.set(NAME, "a stranger", ex=None if kind == "for ever" else 86_400)
    first, second = Lease(redis_url, NAME, 10.0), Lease(redis_url, NAME, 10.0)
    assert first.hold(5.0) == 0.0
    assert second.hold(5.0) > 0


def test_none_is_longer_than_the_longest(redis_url: str) -> None:
    first, second = Lease(redis_url, NAME, 3.0), Lease(redis_url, NAME, 3.0)
    assert first.hold(60.0) == 0.0
    assert second.hold(1.0) <= 3.0
