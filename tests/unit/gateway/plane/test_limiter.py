"""The limiter before a Redis that takes connections and says nothing: everyone is decided alone, in bounded time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from apps.gateway.core.config import RateLimit
from apps.gateway.core.limits import Grant
from apps.gateway.core.metrics import Metrics
from apps.gateway.plane import limiter as module
from apps.gateway.plane.limiter import ANSWER_SECONDS, Limiter
from apps.lib.clock import monotonic


class Waiting:
    """A request that waits."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.heard = asyncio.Event()

    def resume(self, word: bool) -> None:
        self.told.append(word)
        self.heard.set()


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(16)
        yield f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"


def asked(url: str, subjects: int, each: int) -> tuple[list[Waiting], list[bool | None], float, int, Limiter]:
    """So many subjects with so many requests each, at once: who waited, what was said at once, seconds, alone."""

    async def go() -> tuple[list[Waiting], list[bool | None], float, int, Limiter]:
        client = redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        metrics = Metrics()
        limiter = Limiter(client, metrics, lambda: 1.0)
        limiter.configure({"each": RateLimit("each", 2, 3600.0)})
        task = asyncio.create_task(limiter.run())
        started = monotonic()
        waiting = [Waiting() for _ in range(subjects * each)]
        leases = [limiter.lease("each", f"s{number}") for number in range(subjects)]
        said = [leases[number % subjects].take(started, one) for number, one in enumerate(waiting)]  # type: ignore[union-attr]
        async with asyncio.timeout(20):
            for one, answer in zip(waiting, said, strict=True):
                if answer is None:
                    await one.heard.wait()
        seconds = monotonic() - started
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()
        return waiting, said, seconds, metrics.counters["mc.gateway.limiter.alone", ""], limiter

    return asyncio.run(go())


def test_one_wait_is_enough_for_all_who_asked_meanwhile(silent: str) -> None:
    waiting, said, seconds, alone, limiter = asked(silent, 1000, 3)
    assert set(said) == {None}
    assert all(len(one.told) == 1 for one in waiting), "each was told once"
    assert sum(one.told[0] for one in waiting) == 2000, "two of three for each subject, as its own share allows"
    assert seconds < ANSWER_SECONDS * 8, "not a wait for each batch"
    assert alone == 3000 and limiter.waiting == 0 and not limiter.hears(monotonic())


def test_who_would_be_one_too_many_to_wait_is_decided_at_once(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 50)
    _, said, _, alone, _ = asked(silent, 100, 1)
    assert said == [None] * 50 + [True] * 50 and alone == 100


def test_a_policy_that_a_revision_took_away_has_no_leases_any_more(silent: str) -> None:
    async def go() -> None:
        limiter = Limiter(redis.asyncio.Redis.from_url(silent), Metrics(), lambda: 1.0)
        limiter.configure({"each": RateLimit("each", 2)})
        assert limiter.lease("each", "s") is limiter.lease("each", "s")
        limiter.configure({})
        assert limiter.lease("each", "s") is None

    asyncio.run(go())


def test_no_more_is_said_to_be_available_than_the_policy_gives() -> None:
    limiter = Limiter(redis.asyncio.Redis(), Metrics(), lambda: 1.0)
    limiter.configure({"bursty": RateLimit("bursty", 200, 1.0, 400)})
    lease = limiter.lease("bursty", "one")
    assert lease is not None
    lease.answered(Grant(20, 380, 0.0), monotonic())
    assert lease.fields() == b'RateLimit-Policy: "bursty";q=200;w=1\r\nRateLimit: "bursty";r=200;t=1\r\n'
    lease.answered(Grant(20, 100, 0.0), monotonic())
    assert b";r=140;" in lease.fields(), "what is leased and what is left, once it is less"
