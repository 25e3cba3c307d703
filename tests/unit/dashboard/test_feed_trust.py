"""Frames that no leader of ours built reach no browser, and what stands in the stream's place ends nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from django.conf import settings

from apps.dashboard import feed as feeds
from apps.dashboard.feed import Feed
from apps.lib.messages import Frame
from apps.lib.wire import LIVE_FRAMES, LIVE_LEADER, LIVE_WATCHED
from tests.waiting import until


@pytest.fixture
async def follower(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Feed]:
    """A feed that only follows."""
    made = Feed(redis_url)

    async def idle() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(made, "_lead", idle)
    made.start()
    yield made
    await made.stop()


def add(url: str, frame: Frame, *, entry: str = "", seal: Any = None) -> None:
    entry = entry or f"{frame.epoch}-{frame.seq}"
    with redis.Redis.from_url(url) as client:
        client.xadd(LIVE_FRAMES, {"m": (seal or settings.INNER).close(frame, LIVE_FRAMES, entry)}, id=entry)


async def seen(feed: Feed, **state: Any) -> None:
    def reached() -> bool:
        return (snapshot := feed.hub.history.snapshot) is not None and snapshot.state == state

    await asyncio.to_thread(until, reached, 10)


async def test_only_frames_that_the_control_plane_sealed_for_their_place_are_followed(
    follower: Feed, redis_url: str
) -> None:
    add(redis_url, Frame("10", 1, 1.0, None, {"n": 1}))
    await seen(follower, n=1)
    before = settings.INNER.passed_over
    evil = Frame("10", 2, 2.0, {"n": 666})
    with redis.Redis.from_url(redis_url) as client:
        client.xadd(LIVE_FRAMES, {"m": json.dumps({"epoch": "10", "seq": 2, "at": 2, "patch": {}})}, id="10-2")
        client.xadd(LIVE_FRAMES, {b"\xff": b"\xff"}, id="10-3")
    add(redis_url, evil, entry="10-4", seal=settings.WIRE)  # a gateway's key is not enough
    with redis.Redis.from_url(redis_url) as client:
        moved = settings.INNER.close(evil, LIVE_FRAMES, "10-2")
        client.xadd(LIVE_FRAMES, {"m": moved}, id="10-5")
    add(redis_url, Frame("10", 2, 2.0, {"n": 2}), entry="10-6")
    await seen(follower, n=2)
    assert settings.INNER.passed_over == before + 4
    assert follower.counts()["passed_over"] >= 4
    assert follower.running and not follower.hub.counts["failures"]


async def test_a_process_that_comes_later_reads_past_what_is_not_ours(redis_url: str, follower: Feed) -> None:
    add(redis_url, Frame("10", 1, 1.0, None, {"n": 1}))
    with redis.Redis.from_url(redis_url) as client:
        client.xadd(LIVE_FRAMES, {"body": "{"}, id="10-2")
    add(redis_url, Frame("10", 2, 2.0, {"m": 2}), entry="10-3")
    await seen(follower, n=1, m=2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("wrong", ["a string", "the last entry"])
async def test_a_leader_clears_away_what_keeps_it_from_writing(
    redis_url: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        if wrong == "a string":
            client.set(LIVE_FRAMES, "a string")
        else:
            client.xadd(LIVE_FRAMES, {"m": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
        client.set(LIVE_LEADER, "a stranger, for ever")
        client.rpush(LIVE_WATCHED, "no string")
    monkeypatch.setattr(feeds, "IDLE", 0.2)
    made = Feed(redis_url)
    made.start()
    try:
        assert await made.ready_for_browser() or made.hub.history.snapshot is not None
        with redis.Redis.from_url(redis_url) as client:
            await asyncio.to_thread(
                until, lambda: client.type(LIVE_FRAMES) == b"stream" and client.xlen(LIVE_FRAMES), 10
            )
            assert client.get(LIVE_LEADER) != b"a stranger, for ever"
        assert made.running and not made.hub.counts["failures"]
    finally:
        await made.stop()
