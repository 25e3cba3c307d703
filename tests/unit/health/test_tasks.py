"""The lock that holds rounds apart."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from apps.health import tasks


@pytest.mark.parametrize("kind", ["for ever", "for a day", "a list"])
def test_a_lock_that_is_none_of_ours_holds_up_one_round(kind: str, redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    with redis.Redis.from_url(redis_url) as client:
        if kind == "a list":
            client.rpush(tasks.ROUND_LOCK, "x")
        else:
            client.set(tasks.ROUND_LOCK, "a stranger", ex=None if kind == "for ever" else 86_400)
    assert not tasks._take("first")
    assert tasks._take("second")
    assert not tasks._take("third"), "one round at a time"
    tasks._give_back("third")
    assert not tasks._take("fourth")
    tasks._give_back("second")
    assert tasks._take("fifth")
