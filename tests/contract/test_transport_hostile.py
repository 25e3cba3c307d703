"""What others do to a broker while we use it: delete what is ours, put something else in its place, flood it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiormq
import pytest
import redis
from aiokafka.admin import AIOKafkaAdminClient

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.transport import kafka_wire, rabbit_wire, redis_wire
from services.kit.events.transport.base import Outgoing, Subscription, Transport, TransportAway, partition_of
from tests.brokers import Broker
from tests.contract.bus import Lane, nothing_is_left, numbers, param, send, take
from tests.redis_server import admin_url
from tests.waiting import patient

# Where somebody can delete a group that is in use; where a name may be of any kind; where others may make our topics.
FORGETFUL, REDIS, KAFKA = (
    pytest.mark.parametrize("broker", [param(kind) for kind in kinds], indirect=True)
    for kinds in (["redis", "redis of the machine", "rabbitmq"], ["redis", "redis of the machine"], ["kafka"])
)


async def publishes(bus: Transport, event: CloudEvent, seconds: float = 40) -> None:
    """It is taken, in the end."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        said: object = None
        try:
            (said,) = await bus.publish([Outgoing(event)])
            if said is None:
                return
        except TransportAway as error:
            said = error
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.2)


async def gets(reader: Subscription, n: int, seconds: float = 60) -> list[Any]:
    """Everything that comes until the event ``n`` is there."""
    found: list[Any] = []
    deadline = time.monotonic() + patient(seconds)
    while n not in found:
        assert time.monotonic() < deadline, found
        some = await reader.fetch(50, 0.5)
        found += numbers(some)
        with suppress(TransportAway):
            await reader.ack(some)
    return found


def kind_of(broker: Broker) -> str:
    return broker.url.partition(":")[0]


async def on_rabbitmq(url: str, do: Callable[[Any], Awaitable[object]]) -> None:
    connection = await aiormq.connect(url)
    try:
        await do(await connection.channel())
    finally:
        await connection.close()


async def on_kafka(broker: Any, do: Callable[[AIOKafkaAdminClient], Awaitable[object]]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{broker.port}")
    await admin.start()
    try:
        await do(admin)
    finally:
        await admin.close()


async def delete_group(lane: Lane) -> None:
    """What remembers the group's place is gone: groups on Redis, queues on RabbitMQ."""
    group = lane.group("g")
    if kind_of(lane.broker) == "redis":
        with redis.Redis.from_url(admin_url(lane.broker.url)) as client:
            for place in redis_wire.places_of(lane.domain):
                client.xgroup_destroy(redis_wire.stream_of(place), group)
    elif kind_of(lane.broker) == "amqp":

        async def delete(channel: Any) -> None:
            for number in range(8):
                await channel.queue_delete(rabbit_wire.queue_of(group, number))

        await on_rabbitmq(lane.broker.url, delete)


@FORGETFUL
async def test_a_group_that_somebody_deletes_comes_back_and_misses_nothing_that_comes_after(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join()
    await send(bus, [lane.event(n=1)])
    assert numbers(await take(reader, 1)) == [1]
    await delete_group(lane)
    await publishes(bus, lane.event(n=2))
    # What was seen may come again: nobody knows any more that it was.
    assert set(await gets(reader, 2)) <= {1, 2}
    await publishes(bus, lane.event(n=3))
    assert set(await gets(reader, 3)) <= {1, 2, 3}
    await nothing_is_left(lane, reader)


@REDIS
async def test_what_stands_in_the_place_of_a_topic_is_told_and_costs_that_topic_alone(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    bus, other = lane.connect(), Lane(lane.broker)
    other.made = lane.made
    reader = await lane.join("g", "m", lane.pattern, other.pattern)
    event = lane.event(n=1)
    key = redis_wire.stream_of((lane.domain, partition_of(Outgoing(event))))
    with redis.Redis.from_url(admin_url(lane.broker.url)) as client:
        client.delete(key)
        client.set(key, "mine")
        (refused,) = await bus.publish([Outgoing(event)])
        assert "WRONGTYPE" in str(refused)
        await send(bus, [other.event(n=2)])
        assert 2 in await gets(reader, 2)
        said = [record for record in caplog.records if "can't be read" in record.getMessage()]
        assert 1 <= len(said) < 20, "it is told, and not at every turn"
        client.delete(key)
    await publishes(bus, event)
    assert 1 in await gets(reader, 1)


@KAFKA
async def test_a_topic_with_fewer_partitions_is_read_all_the_same(lane: Lane) -> None:
    name = kafka_wire.TOPIC_PREFIX + lane.domain
    await on_kafka(lane.broker, lambda admin: kafka_wire.make_topics(admin, {name}, 3))
    bus, reader = lane.connect(), await lane.join()
    await send(bus, lane.events(60, keys=20))
    assert sorted(numbers(await take(reader, 60))) == list(range(60))
    await nothing_is_left(lane, reader)
