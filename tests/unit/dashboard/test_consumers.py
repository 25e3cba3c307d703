"""One browser's end must not be another's, nor the feed's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from autobahn.exception import Disconnected

from apps.dashboard import feed as feeds
from apps.dashboard.consumers import LiveConsumer
from apps.dashboard.feed import Feed, feed
from apps.dashboard.frames import Delta, Snapshot
from apps.dashboard.hub import Subscriber


@pytest.mark.parametrize("error", [Disconnected("closed"), ConnectionResetError()])
async def test_a_browser_that_has_gone_is_dropped_and_the_others_are_served(error: Exception) -> None:
    hub = feed().hub
    await hub.restart(Snapshot("1", 1, 0.0, {}))
    consumer = LiveConsumer()

    async def fails(message: dict[str, Any]) -> None:
        raise error

    consumer.base_send = fails
    consumer.subscriber = gone = Subscriber(consumer._say, hub)
    texts: list[str] = []

    async def keep(text: str) -> None:
        texts.append(text)

    other = Subscriber(keep, hub)
    hub.subscribers |= {gone, other}
    for subscriber in (gone, other):
        await subscriber.begin("", None)
    assert await hub.add(Delta("1", 2, 0.0, {"verdict": 1}))
    assert hub.subscribers == {other}
    assert len(texts) == 2


async def test_a_part_of_the_feed_that_fails_begins_anew(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeds, "RESTART", 0.01)
    made = Feed(redis_url)

    async def idle() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(made, "_lead", idle)  # Building is another test's matter.
    calls: list[int] = []
    again = asyncio.Event()
    follow = made._follow

    async def fails_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        again.set()
        await follow()

    monkeypatch.setattr(made, "_follow", fails_once)
    made.start()
    async with asyncio.timeout(5):
        await again.wait()
    assert made.running
    assert made.hub.counts["failures"] == 1
    assert "begins anew: live fails_once" in caplog.text
    await made.stop()


async def test_a_stop_in_the_middle_of_a_read_never_waits_for_it(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def idle() -> None:
        await asyncio.Event().wait()

    for steps in range(12):
        made = Feed(redis_url)
        monkeypatch.setattr(made, "_lead", idle)
        made.start()
        assert made._redis is not None
        read, reading = made._redis.xread, asyncio.Event()

        async def announced(*args: Any, read: Any = read, reading: asyncio.Event = reading, **options: Any) -> Any:
            reading.set()
            return await read(*args, **options)

        monkeypatch.setattr(made._redis, "xread", announced)
        await reading.wait()
        # The cancellation meets the command before it is written, while it is, and after.
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await made.stop()
