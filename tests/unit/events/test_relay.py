"""The relay between a real database and a real bus."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import redis
from asgiref.sync import sync_to_async

from apps.events import outbox
from apps.events.actions import publish
from apps.events.models import OutboxMessage
from apps.events.relay import Relay
from apps.lib.wire import HEARTBEAT_PREFIX
from services.kit.events.transport.base import PARTITIONS, Outgoing, Rejected, Stats, TransportAway
from services.kit.events.transport.redis_streams import RedisStreams, stream_of
from tests.signed import KEYS

pytestmark = pytest.mark.django_db(transaction=True)

TYPE = "test.thing.done"


class Flaky:
    """A transport whose broker is away for a while, and that refuses what it is told to."""

    def __init__(self, inner: RedisStreams) -> None:
        self.inner = inner
        self.away = False
        self.refuse: set[int] = set()
        self.calls = 0

    async def publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        self.calls += 1
        if self.away:
            raise TransportAway("unplugged")
        good = [out for out in batch if out.event.data["n"] not in self.refuse]
        outcomes = iter(await self.inner.publish(good))
        return [Rejected("too odd") if out.event.data["n"] in self.refuse else next(outcomes) for out in batch]

    def carriers(self, event_type: str) -> list[str]:
        return self.inner.carriers(event_type)

    def stats(self) -> Stats:
        return self.inner.stats()


@asynccontextmanager
async def relaying(url: str) -> AsyncIterator[Flaky]:
    transport = Flaky(RedisStreams(url))
    relay = Relay(transport, KEYS, url)  # type: ignore[arg-type]
    running = asyncio.create_task(relay.run())
    try:
        yield transport
    finally:
        relay.stop()
        async with asyncio.timeout(10):
            await running
        await transport.inner.close()


async def settled(count: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while (sent := await OutboxMessage.objects.filter(sent_at__isnull=False).acount()) < count:
        assert time.monotonic() < deadline, f"{sent} of {count} events sent"
        await asyncio.sleep(0.02)


async def publish_in_thread(*, n: int, key: str = "k") -> None:
    await sync_to_async(publish)(TYPE, {"n": n}, stream=key)


def carried(url: str) -> list[int]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        streams = [client.xrange(stream_of(("test", number))) for number in range(PARTITIONS)]
    return [json.loads(fields["e"])["data"]["n"] for entries in streams for _, fields in entries]


async def test_a_published_event_is_on_the_bus_at_once(redis_url: str, settings: object) -> None:
    settings.REDIS_URL = redis_url  # type: ignore[attr-defined]
    async with relaying(redis_url):
        await publish_in_thread(n=0)
        await settled(1)
        # The nudge, not the poll.
        times = []
        for n in range(1, 6):
            start = time.monotonic()
            await publish_in_thread(n=n)
            await settled(n + 1)
            times.append(time.monotonic() - start)
        assert sorted(times)[2] < 0.5
    assert carried(redis_url) == list(range(6))


async def test_while_the_bus_is_away_rows_wait_and_then_go_in_order(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(30):
        await publish_in_thread(n=n)
    async with relaying(redis_url) as bus:
        bus.away = True
        await asyncio.sleep(0)
        deadline = time.monotonic() + 6
        while bus.calls < 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert bus.calls <= 6, "pauses grow: the relay does not run hot"
        assert (await sync_to_async(outbox.backlog)()).waiting == 30
        bus.away = False
        await settled(30, 20)
    assert carried(redis_url) == list(range(30))
    said = [record.message for record in caplog.records if "bus" in record.message]
    assert len(said) == 2, said


async def test_a_refused_event_holds_back_its_key_alone(redis_url: str) -> None:
    for n, key in enumerate(["a", "b", "a", "b"]):
        await publish_in_thread(n=n, key=key)
    async with relaying(redis_url) as bus:
        bus.refuse = {0}
        await settled(3)
        await publish_in_thread(n=4, key="a")
        row = await OutboxMessage.objects.filter(sent_at__isnull=True).order_by("pk").afirst()
        assert row is not None
        assert row.last_error == "too odd"
        bus.refuse = set()
        await settled(5)
    order = carried(redis_url)
    assert order.index(1) < order.index(3)
    assert order.index(0) < order.index(4)


async def test_two_relays_send_each_event_once_and_keep_every_keys_order(redis_url: str) -> None:
    for n in range(200):
        await publish_in_thread(n=n, key=f"k{n % 7}")
    async with relaying(redis_url), relaying(redis_url):
        await settled(200, 20)
    order = carried(redis_url)
    assert sorted(order) == list(range(200))
    for key in range(7):
        assert [n for n in order if n % 7 == key] == [n for n in range(200) if n % 7 == key]


async def test_the_relay_shows_that_it_lives(redis_url: str) -> None:
    async with relaying(redis_url):
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            deadline = time.monotonic() + 5
            while not client.get(HEARTBEAT_PREFIX + "relay"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert 0 < client.ttl(HEARTBEAT_PREFIX + "relay") <= 10


def test_the_command_ends_cleanly_on_sigterm(redis_url: str, tmp_path: object) -> None:
    environment = os.environ | {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{tmp_path}/control.sqlite3"}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], env=environment, check=True, timeout=60)
    relay = subprocess.Popen([sys.executable, "manage.py", "relay"], env=environment)
    try:
        with redis.Redis.from_url(redis_url) as client:
            deadline = time.monotonic() + 20
            while not client.get(HEARTBEAT_PREFIX + "relay"):
                assert relay.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(10) == 0
    finally:
        relay.kill()
        relay.wait()
