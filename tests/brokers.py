"""The brokers that carry events, for the suite that all of them pass: each started when a test first asks for it.

What only a test does to a broker, past the Transport seam, is here too: put odd entries into it, and look into it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiormq
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from pamqp.commands import Basic

from services.kit.events.transport import kafka_wire, rabbit_wire, redis_wire
from tests import machine
from tests.kafka_server import KafkaServer
from tests.rabbitmq_server import RabbitServer
from tests.redis_server import RedisServer
from tests.waiting import patient, until


class Broker(Protocol):
    """A real broker in a process of its own, on its own data."""

    url: str

    def start(self) -> Any:
        """Start it (again), and wait until it answers."""

    def kill(self) -> None:
        """SIGKILL, and wait for it."""

    def wipe(self) -> None:
        """Kill it, and have it begin on an empty disk at its next start."""

    def end(self) -> None:
        """Kill it, and take its data away."""

    def ripen(self, group: str) -> None:
        """Wait until what was made for the group outlives a kill."""

    def put(self, topic: str, entries: list[Entry]) -> None:
        """Have somebody else's producer write ``entries``, in order, into one partition."""

    def named(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """An event's attributes as its binary mode names them."""

    def seen(self, topic: str) -> list[Entry]:
        """What is in the topic, as another program reads it."""

    def dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        """What the group put aside: the bytes, and what is noted with them."""


@dataclass(frozen=True)
class Entry:
    """A message as brokers know it: what Redis has no word for is left out there."""

    body: bytes
    headers: Mapping[str, str]
    key: str = ""


class Redis(RedisServer):
    """Redis, with its append-only file on."""

    def __init__(self, folder: Path, binary: str = "") -> None:
        super().__init__(folder, durable=True, binary=binary)

    def wipe(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def end(self) -> None:
        self.kill()

    def ripen(self, group: str) -> None:
        """An entry is in the file before the answer."""

    def put(self, topic: str, entries: list[Entry]) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.sadd(redis_wire.TOPICS, topic)
            for entry in entries:
                fields: dict[Any, Any] = {"e": entry.body} if entry.body else {}
                client.xadd(redis_wire.stream_of((topic, 3)), fields | dict(entry.headers) or {"nothing": ""})

    def named(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        return attributes  # It has no binary mode: fields that nobody reads.

    def seen(self, topic: str) -> list[Entry]:
        found = []
        with redis.Redis.from_url(self.url) as client:
            for place in redis_wire.places_of(topic):
                rows: Any = client.xrange(redis_wire.stream_of(place))
                found += [Entry(fields[b"e"], {"t": fields[b"t"].decode()}) for _, fields in rows]
        return found

    def dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        with redis.Redis.from_url(self.url) as client:
            rows: Any = client.xrange(redis_wire.DEAD_PREFIX + group)
        return [
            (fields.pop(b"e"), {name.decode(): value.decode() for name, value in fields.items()}) for _, fields in rows
        ]


class RabbitMQ(RabbitServer):
    """RabbitMQ, seen by a connection of its own for each question."""

    def ripen(self, group: str) -> None:
        # Which queues there are is confirmed while it waits in memory for up to three seconds (dets' delayed write):
        # a kill until then loses not their messages but their names, and RabbitMQ says that their node is down.
        names = {f"mc.{group}.{number}".encode() for number in range(8)} | {b"rabbit_stream_coordinator"}
        files = list(self.folder.rglob("names.dets"))
        until(lambda: all(any(name in file.read_bytes() for file in files) for name in names), 15, what="names on disk")

    def put(self, topic: str, entries: list[Entry]) -> None:
        asyncio.run(self._put(topic, entries))

    async def _put(self, topic: str, entries: list[Entry]) -> None:
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()
        await rabbit_wire.declare(channel)
        for entry in entries:
            headers: dict[str, Any] = dict(entry.headers)
            content_type = headers.pop("content-type", None)
            properties = Basic.Properties(headers=headers, content_type=content_type)
            key = f"{topic}.a.b.p3"
            await channel.basic_publish(
                entry.body, exchange=rabbit_wire.EXCHANGE, routing_key=key, properties=properties
            )
        await connection.close()

    def named(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        return {f"ce-{name}": value for name, value in attributes.items()} | {"content-type": "application/json"}

    def seen(self, topic: str) -> list[Entry]:
        return [entry for number in range(8) for entry in asyncio.run(self._seen(rabbit_wire.log_of(number), topic))]

    async def _seen(self, queue: str, topic: str) -> list[Entry]:
        """What is in a stream for a topic, read from its beginning until nothing comes."""
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()
        await channel.basic_qos(prefetch_count=1000)
        found: asyncio.Queue[Any] = asyncio.Queue()
        await channel.basic_consume(queue, found.put, arguments={"x-stream-offset": "first"})
        entries = []
        try:
            while True:
                message = await asyncio.wait_for(found.get(), 0.3)
                properties = message.header.properties
                if (message.routing_key or "").startswith(f"{topic}."):
                    headers = {"content-type": properties.content_type} | properties.headers
                    entries.append(Entry(message.body, headers))
        except TimeoutError:
            await connection.close()
            return entries

    def dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        return asyncio.run(self._dead(group))

    async def _dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()
        found: list[tuple[bytes, Mapping[str, str]]] = []
        while (message := await channel.basic_get(f"mc.{group}.dead", no_ack=True)).delivery_tag is not None:
            headers: dict[str, Any] = dict(message.header.properties.headers or {})
            found.append((message.body, {name.removeprefix("mc-"): str(value) for name, value in headers.items()}))
        await connection.close()
        return found


class Kafka(KafkaServer):
    """Kafka, seen by a client of its own for each question."""

    def ripen(self, group: str) -> None:
        """Nothing to wait for: offsets are messages as well."""

    def put(self, topic: str, entries: list[Entry]) -> None:
        asyncio.run(self._put(topic, entries))

    async def _put(self, topic: str, entries: list[Entry]) -> None:
        servers = f"127.0.0.1:{self.port}"
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await kafka_wire.make_topics(admin, {kafka_wire.TOPIC_PREFIX + topic})
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=servers, max_request_size=2_000_000) as producer:
            for entry in entries:
                headers = [(name, value.encode()) for name, value in entry.headers.items()]
                key = entry.key.encode() or None
                name = kafka_wire.TOPIC_PREFIX + topic
                await producer.send_and_wait(name, entry.body, key=key, partition=3, headers=headers)

    def named(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        return {f"ce_{name}": value for name, value in attributes.items()} | {"content-type": "application/json"}

    def seen(self, topic: str) -> list[Entry]:
        return [
            Entry(record.value, {name: value.decode() for name, value in record.headers}, (record.key or b"").decode())
            for record in asyncio.run(self._records(kafka_wire.TOPIC_PREFIX + topic))
        ]

    async def _records(self, topic: str) -> list[Any]:
        """All of a topic."""
        async with (
            asyncio.timeout(patient(15)),
            AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{self.port}", auto_offset_reset="earliest") as consumer,
        ):
            partitions = [TopicPartition(topic, number) for number in range(8)]
            consumer.assign(partitions)
            left = sum((await consumer.end_offsets(partitions)).values())
            found: list[Any] = []
            while len(found) < left:
                found += [one for records in (await consumer.getmany(timeout_ms=200)).values() for one in records]
            return found

    def dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        return [
            (record.value, {name.removeprefix("mc-"): value.decode() for name, value in record.headers})
            for record in asyncio.run(self._records(kafka_wire.DEAD_PREFIX + group))
        ]


KINDS: dict[str, Callable[[Path], Broker]] = {
    "redis": Redis,
    "redis of the machine": lambda folder: Redis(folder, machine.redis() or ""),
    "rabbitmq": RabbitMQ,
    "kafka": Kafka,
}
MARKERS = {"redis of the machine": "redis", "rabbitmq": "rabbitmq", "kafka": "kafka"}
"""What the machine must have for it."""
