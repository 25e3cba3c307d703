"""A broker that loses what it was given before a group has read it: it notices, and gets it from who published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from services.kit.events import mending
from services.kit.events.transport import kafka_wire, rabbit_wire
from tests.brokers import Broker
from tests.contract.shop import KEYS_COUNT, Shop
from tests.contract.test_transport_hostile import KAFKA, kind_of, on_kafka, on_rabbitmq
from tests.redis_server import admin_url

COUNT = 1600
"""Three times what a consumer may have in hand."""


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

    async def looked() -> bool:
        return shop.consumer.condition.lag > 0

    await shop.until(shop.all_sent, "the broker took everything")
    await shop.until(looked, "the consumer knows how far behind it is")
    before = shop.reads.stats().breaks
    await lose(shop)
    shop.open.set()
    await shop.until(shop.all_seen, "what was lost is fetched")
    assert shop.reads.stats().breaks > before
    assert "the bus lost them" in caplog.text, "some of it was fetched"
    # Nothing is done with: the next ones come by the broker.
    await shop.publish(KEYS_COUNT * 2)
    await shop.until(shop.all_sent, "the broker takes more")
    await shop.until(shop.all_seen, "what is published afterwards comes")
    await shop.in_order_once()
