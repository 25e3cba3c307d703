"""A broker that loses what it was given before a group has read it: it notices, and gets it from who published."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from fastapi import FastAPI
from sqlalchemy import Connection, text

from services.kit import published
from services.kit.events import mending
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.consumer import Consumer
from services.kit.events.mending import Mender
from services.kit.events.repair import Published, Repair
from services.kit.events.retry import Away
from services.kit.events.transport import kafka_wire, rabbit_wire
from services.kit.events.transport.connect import connect
from services.kit.inbox import INBOX, PARKED, SqlInbox
from services.kit.outbox import NUMBERED, OUTBOX, SENT, Outbox
from services.kit.parked import ORDERED, REPORTED
from services.kit.store import Migration, Store
from tests.brokers import Broker
from tests.contract.test_transport_hostile import KAFKA, kind_of, on_kafka, on_rabbitmq
from tests.redis_server import admin_url
from tests.signed import KEYS
from tests.waiting import patient

SEEN = Migration(("CREATE TABLE seen (id {serial}, key TEXT NOT NULL, n INTEGER NOT NULL)",))
COUNT, KEYS_COUNT = 1600, 16
"""Three times what a consumer may have in hand."""


class Shop:
    """A publisher with its outbox and its own log, and a consumer with its inbox that keeps itself whole by it."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.domain = f"t{uuid4().hex[:8]}"
        self.group = f"{self.domain}-g"
        self.sends, self.reads = connect(broker.url), connect(broker.url)
        self.mine = Store(f"sqlite:///{folder / 'publisher.sqlite3'}", [OUTBOX, SENT, NUMBERED])
        self.theirs = Store(f"sqlite:///{folder / 'consumer.sqlite3'}", [INBOX, PARKED, REPORTED, ORDERED, SEEN])
        self.outbox = Outbox(self.mine, self.sends, "tests", keys=KEYS)
        self.app = FastAPI()
        self.app.include_router(published.router(self.mine, KEYS, "tests"))
        self.open = threading.Event()
        """Until then a handler waits with the first event."""
        inbox = SqlInbox(self.theirs, self.group, self._handle, system=self.reads.name, gapless=True)
        self.mender = Mender(Repair(inbox.gaps, self._find, self._names, [f"{self.domain}.#"]))
        self.consumer = Consumer(
            self.reads, inbox, [f"{self.domain}.#"], keys=KEYS, group=self.group, member="m", mender=self.mender
        )
        self.sent: list[tuple[str, int]] = []

    async def start(self) -> None:
        for part in (self.mine, self.theirs, self.outbox, self.consumer):
            await part.start()

    async def stop(self) -> None:
        self.open.set()
        for part in (self.consumer, self.outbox, self.mine, self.theirs):
            await part.stop()
        for transport in (self.sends, self.reads):
            await transport.close()

    def _handle(self, connection: Connection, event: CloudEvent) -> None:
        self.open.wait(patient(90))
        connection.execute(text("INSERT INTO seen (key, n) VALUES (:key, :n)"), event.data)

    async def publish(self, count: int, keys: int = KEYS_COUNT) -> None:
        numbers = Counter(key for key, _ in self.sent)
        new = []
        for at in range(count):
            key = f"k{at % keys}"
            numbers[key] += 1
            new.append((key, numbers[key]))

        def record(connection: Connection) -> None:
            for key, n in new:
                self.outbox.record(connection, f"{self.domain}.thing.done", {"key": key, "n": n}, subject=key)

        await self.mine.write(record)
        self.outbox.nudge()
        self.sent += new

    async def waiting(self) -> int:
        query = text("SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL")
        return int(await self.mine.read(lambda connection: connection.execute(query).scalar_one()))

    async def seen(self) -> list[tuple[str, int]]:
        query = text("SELECT key, n FROM seen ORDER BY id")
        return await self.theirs.read(lambda connection: [(row.key, row.n) for row in connection.execute(query)])

    async def _names(self) -> list[str]:
        return ["tests"]

    async def _find(self, source: str) -> Published:
        return Published(self._get)

    async def _get(self, path: str) -> bytes:
        """Asks the publisher as HTTP does, without a network."""
        parts, got, status = urlsplit(path), b"", 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            nonlocal got, status
            status = message.get("status", status)
            got += message.get("body", b"")

        scope = {"type": "http", "method": "GET", "path": parts.path, "raw_path": parts.path.encode(), "headers": []}
        await self.app(scope | {"query_string": parts.query.encode()}, receive, send)
        if status != 200:
            raise Away(f"it answered {status}")
        return got

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + patient(seconds)
        while not await condition():
            assert time.monotonic() < deadline, f"{what}: {len(await self.seen())} of {len(self.sent)} came"
            await asyncio.sleep(0.05)


@pytest.fixture
async def shop(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    # Whoever compares now and then finds everything in the end: here it has to be noticed.
    monkeypatch.setattr(mending, "COMPARE_EVERY_S", 3600.0)
    made = Shop(broker, tmp_path)
    await made.start()
    yield made
    await made.stop()


async def wiped(shop: Shop) -> None:
    """Killed, its disk replaced by an empty one, and started again."""
    await asyncio.to_thread(shop.broker.wipe)
    await asyncio.to_thread(shop.broker.start)


async def deleted(shop: Shop) -> None:
    """While it runs, somebody deletes what has the events."""
    if kind_of(shop.broker) == "redis":
        with redis.Redis.from_url(admin_url(shop.broker.url)) as client:
            client.flushall()
    elif kind_of(shop.broker) == "amqp":

        async def delete(channel: Any) -> None:
            for number in range(8):
                await channel.queue_delete(rabbit_wire.queue_of(shop.group, number))
                await channel.queue_delete(rabbit_wire.log_of(number))

        await on_rabbitmq(shop.broker.url, delete)
    else:
        name = kafka_wire.TOPIC_PREFIX + shop.domain
        await on_kafka(shop.broker, lambda admin: admin.delete_topics([name]))


async def emptied(shop: Shop) -> None:
    """While it runs, somebody takes away all records, and leaves the topic that had them."""
    name = kafka_wire.TOPIC_PREFIX + shop.domain
    every = {TopicPartition(name, number): RecordsToDelete(before_offset=-1) for number in range(8)}
    await on_kafka(shop.broker, lambda admin: admin.delete_records(every))


@pytest.mark.parametrize("lose", [wiped, deleted])
async def test_what_a_broker_loses_unread_is_noticed_and_comes_once_and_in_order(
    shop: Shop, lose: Callable[[Shop], Any], caplog: pytest.LogCaptureFixture
) -> None:
    await is_whole_again(shop, lose, caplog)


@KAFKA
async def test_what_leaves_a_log_unread_is_noticed_and_comes_once_and_in_order(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    await is_whole_again(shop, emptied, caplog)


async def is_whole_again(shop: Shop, lose: Callable[[Shop], Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await shop.publish(COUNT)

    async def all_sent() -> bool:
        return not await shop.waiting()

    async def all_seen() -> bool:
        return len(await shop.seen()) >= len(shop.sent)

    async def looked() -> bool:
        return bool(shop.consumer.condition.lag)

    await shop.until(all_sent, "the broker took everything")
    await shop.until(looked, "the consumer knows how far behind it is")
    before = shop.reads.stats().breaks
    await lose(shop)
    shop.open.set()
    await shop.until(all_seen, "what was lost is fetched")
    assert shop.reads.stats().breaks > before
    assert "the bus lost them" in caplog.text, "some of it was fetched"
    # Nothing is done with: the next ones come by the broker.
    await shop.publish(KEYS_COUNT * 2)
    await shop.until(all_sent, "the broker takes more")
    await shop.until(all_seen, "what is published afterwards comes")
    found = await shop.seen()
    for key in {key for key, _ in shop.sent}:
        assert [one for one in found if one[0] == key] == [one for one in shop.sent if one[0] == key]
