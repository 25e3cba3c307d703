"""The brokers' clients alone, as P6 has them beside ours: publish with confirmation, read, acknowledge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import aiormq
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pamqp.commands import Basic

AT_ONCE = 500
BARE = "bench"


class Bare(Protocol):
    """One side of one broker's client: it begins as one that reads or as one that publishes."""

    async def begin(self, reads: bool) -> None:
        """Connect. Who publishes comes first, and makes what is needed."""

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """Return when the broker has them."""

    async def consume(self) -> int:
        """Read some and acknowledge them; how many."""

    async def end(self) -> None:
        """Close the connection."""


class BareRedis:
    """Streams with a group."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url)

    async def begin(self, reads: bool) -> None:
        if not reads:
            await self.client.xgroup_create(BARE, BARE, id="0", mkstream=True)

    async def publish(self, bodies: Sequence[bytes]) -> None:
        async with self.client.pipeline(transaction=False) as pipe:
            for body in bodies:
                pipe.xadd(BARE, {"e": body})
            await pipe.execute()

    async def consume(self) -> int:
        found: Any = await self.client.xreadgroup(BARE, BARE, {BARE: ">"}, count=AT_ONCE, block=1000)
        ids = [entry for _, entries in found or [] for entry, _ in entries]
        if ids:
            await self.client.xack(BARE, BARE, *ids)
        return len(ids)

    async def end(self) -> None:
        await self.client.aclose()


class BareRabbit:
    """A quorum queue, persistent messages, confirms."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.came: asyncio.Queue[Any] = asyncio.Queue()

    async def begin(self, reads: bool) -> None:
        self.connection = await aiormq.connect(self.url)
        self.channel = await self.connection.channel()
        await self.channel.queue_declare(BARE, durable=True, arguments={"x-queue-type": "quorum"})
        if reads:
            await self.channel.basic_qos(prefetch_count=AT_ONCE)
            await self.channel.basic_consume(BARE, self.came.put)

    async def publish(self, bodies: Sequence[bytes]) -> None:
        kept = Basic.Properties(delivery_mode=2)
        await asyncio.gather(
            *(self.channel.basic_publish(body, routing_key=BARE, properties=kept, mandatory=True) for body in bodies)
        )

    async def consume(self) -> int:
        message = await self.came.get()
        count = 1
        while not self.came.empty():
            message, count = self.came.get_nowait(), count + 1
        await self.channel.basic_ack(message.delivery_tag, multiple=True, wait=False)
        return count

    async def end(self) -> None:
        await self.connection.close()


class BareKafka:
    """An idempotent producer, and a group that commits what it has read."""

    def __init__(self, url: str) -> None:
        self.at = url.removeprefix("kafka://")

    async def begin(self, reads: bool) -> None:
        if reads:
            self.client: Any = AIOKafkaConsumer(
                BARE, bootstrap_servers=self.at, group_id=BARE, enable_auto_commit=False, auto_offset_reset="earliest"
            )
        else:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.at)
            await admin.start()
            await admin.create_topics([NewTopic(BARE, 1, 1)])
            await admin.close()
            self.client = AIOKafkaProducer(bootstrap_servers=self.at, enable_idempotence=True)
        await self.client.start()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        await asyncio.gather(*[await self.client.send(BARE, body) for body in bodies])

    async def consume(self) -> int:
        found = await self.client.getmany(timeout_ms=1000, max_records=AT_ONCE)
        if found:
            await self.client.commit()
        return sum(map(len, found.values()))

    async def end(self) -> None:
        await self.client.stop()


PEERS: dict[str, type[Any]] = {"redis": BareRedis, "rabbitmq": BareRabbit, "kafka": BareKafka}
