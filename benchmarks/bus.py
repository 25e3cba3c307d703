"""One run of P6: ``python -m benchmarks.bus BROKER EVENTS ROUNDS`` prints rates as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiormq
import django
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pamqp.commands import Basic
from sqlalchemy import Connection

from missioncontrol.launch.layout import SECRETS
from services.kit.events.cloudevent import CloudEvent, encode
from services.kit.events.consumer import Consumer
from services.kit.events.signing import CONTROL, Ring
from services.kit.events.transport.base import Transport
from services.kit.events.transport.connect import connect
from services.kit.inbox import INBOX, PARKED, SqlInbox
from services.kit.store import Store
from tests import brokers
from tests.redis_server import RedisServer

AT_ONCE = 500
KEYS = 64
SINGLES = 500
PATIENCE_S = 300.0
BARE = "bench"


class Bare(Protocol):
    """A broker's client alone: publish with confirmation, read, acknowledge."""

    async def publish(self, bodies: Sequence[bytes]) -> None: ...

    async def consume(self) -> int:
        """Read some and acknowledge them; how many."""


class BareRedis:
    """Streams with a group."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url)

    async def begin(self) -> None:
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

    async def begin(self) -> None:
        self.connection = await aiormq.connect(self.url)
        self.out, self.into = await self.connection.channel(), await self.connection.channel()
        await self.into.queue_declare(BARE, durable=True, arguments={"x-queue-type": "quorum"})
        await self.into.basic_qos(prefetch_count=AT_ONCE)
        await self.into.basic_consume(BARE, self.came.put)

    async def publish(self, bodies: Sequence[bytes]) -> None:
        kept = Basic.Properties(delivery_mode=2)
        await asyncio.gather(
            *(self.out.basic_publish(body, routing_key=BARE, properties=kept, mandatory=True) for body in bodies)
        )

    async def consume(self) -> int:
        message = await self.came.get()
        count = 1
        while not self.came.empty():
            message, count = self.came.get_nowait(), count + 1
        await self.into.basic_ack(message.delivery_tag, multiple=True, wait=False)
        return count

    async def end(self) -> None:
        await self.connection.close()


class BareKafka:
    """An idempotent producer, and a group that commits what it has read."""

    def __init__(self, url: str) -> None:
        self.at = url.removeprefix("kafka://")

    async def begin(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.at)
        await admin.start()
        await admin.create_topics([NewTopic(BARE, 1, 1)])
        await admin.close()
        self.producer = AIOKafkaProducer(bootstrap_servers=self.at, enable_idempotence=True)
        await self.producer.start()
        self.consumer = AIOKafkaConsumer(
            BARE, bootstrap_servers=self.at, group_id=BARE, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self.consumer.start()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        await asyncio.gather(*[await self.producer.send(BARE, body) for body in bodies])

    async def consume(self) -> int:
        found = await self.consumer.getmany(timeout_ms=1000, max_records=AT_ONCE)
        if found:
            await self.consumer.commit()
        return sum(map(len, found.values()))

    async def end(self) -> None:
        await self.consumer.stop()
        await self.producer.stop()


KINDS: dict[str, Any] = {
    "redis": (brokers.Redis, BareRedis),
    "rabbitmq": (brokers.RabbitMQ, BareRabbit),
    "kafka": (brokers.Kafka, BareKafka),
}


class Counted:
    """A handler that says when it has had so many."""

    def __init__(self) -> None:
        self.count = self._goal = 0
        self._loop = asyncio.get_running_loop()
        self._there = asyncio.Event()

    def __call__(self, connection: Connection, event: CloudEvent) -> None:
        self.count += 1
        if self.count == self._goal:
            self._loop.call_soon_threadsafe(self._there.set)

    async def reach(self, goal: int) -> None:
        """The first event of a later goal comes after this one's last."""
        async with asyncio.timeout(PATIENCE_S):
            await self._there.wait()
        assert self.count == goal

    def expect(self, goal: int) -> None:
        """Before the first of its events is published."""
        self._there.clear()
        self._goal = goal


@contextlib.asynccontextmanager
async def running(home: Path, transport: Transport, redis_url: str) -> AsyncIterator[Counted]:
    """Relay and consumer, until the end of the block."""
    # After set-up: models can't be imported before.
    from apps.events.relay import Relay

    ring = Ring.of([(CONTROL, secrets.token_hex(32))])
    store = Store(f"sqlite:///{home / 'consumer.sqlite3'}", [INBOX, PARKED])
    await store.start()
    handled = Counted()
    inbox = SqlInbox(store, "bench", handled, system=transport.name)
    consumer = Consumer(transport, inbox, ["bench.#"], keys=ring, group="bench", member="one")
    relay = Relay(transport, ring, redis_url)
    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(consumer.run())]
    try:
        yield handled
    finally:
        relay.stop()
        consumer.stopping.set()
        await asyncio.gather(*tasks)
        await store.stop()


def drafts(count: int) -> list[Any]:
    from apps.events.storing import Draft

    data = {"amount": "12.50", "currency": "EUR", "to": "ann", "note": "x" * 120}
    return [Draft("bench.thing.done", data | {"n": n}, stream=f"k/{n % KEYS}") for n in range(count)]


async def ours(handled: Counted, events: int) -> float:
    """Events a second."""
    from apps.events.actions import apublish_all

    said, goal = drafts(events), handled.count + events
    handled.expect(goal)
    begun = time.perf_counter()
    for start in range(0, events, AT_ONCE):
        await apublish_all(said[start : start + AT_ONCE])
    await handled.reach(goal)
    return events / (time.perf_counter() - begun)


async def bare(peer: Bare, bodies: Sequence[bytes]) -> float:
    """Events a second."""

    async def read() -> None:
        left = len(bodies)
        while left > 0:
            left -= await peer.consume()

    begun = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as both:
        both.create_task(read())
        for start in range(0, len(bodies), AT_ONCE):
            await peer.publish(bodies[start : start + AT_ONCE])
    return len(bodies) / (time.perf_counter() - begun)


async def singles(handled: Counted) -> float:
    """The 99th percentile of publishing one event, in milliseconds."""
    from apps.events.actions import publish
    from apps.lib.aio import in_thread

    times = []

    def timed(draft: Any) -> None:
        begun = time.perf_counter()
        publish(draft.type, draft.data, stream=draft.stream)
        times.append(time.perf_counter() - begun)

    goal = handled.count + SINGLES
    handled.expect(goal)
    for draft in drafts(SINGLES):
        await in_thread(timed, draft)
    await handled.reach(goal)
    return sorted(times)[int(SINGLES * 0.99)] * 1e3


async def measure(home: Path, broker: str, redis_url: str, events: int, rounds: int) -> dict[str, Any]:
    """Both sides in turns, after a short round that doesn't count."""
    from apps.events.models import Event

    server, peer_of = KINDS[broker]
    running_broker = server(home / "broker")
    running_broker.start()
    transport = connect(running_broker.url)
    found: dict[str, Any] = {"ours": [], "bare": []}
    try:
        peer = peer_of(running_broker.url)
        await peer.begin()
        async with running(home, transport, redis_url) as handled:
            await ours(handled, AT_ONCE)
            first = await asyncio.to_thread(lambda: Event.objects.order_by("id")[0].as_cloudevent())
            bodies = [encode(first)] * events
            await bare(peer, bodies[:AT_ONCE])
            for _ in range(rounds):
                found["ours"].append(await ours(handled, events))
                found["bare"].append(await bare(peer, bodies))
            found["p99_ms"] = await singles(handled)
        await peer.end()
    finally:
        await transport.close()
        running_broker.end()
    return found


def main(broker: str, events: str, rounds: str) -> None:
    """Run in a home of its own, and print."""
    with tempfile.TemporaryDirectory(prefix="mc-bench-") as folder:
        home = Path(folder)
        (home / "broker").mkdir()
        (home / "redis").mkdir()
        with RedisServer(home / "redis") as nudges:
            os.environ |= {
                "MC_HOME": folder,
                "REDIS_URL": nudges.url,
                "DJANGO_SETTINGS_MODULE": "missioncontrol.settings",
            }
            os.environ |= {name.upper(): secrets.token_hex(32) for name in SECRETS}
            django.setup()
            from django.core.management import call_command

            call_command("migrate", verbosity=0)
            print(json.dumps(asyncio.run(measure(home, broker, nudges.url, int(events), int(rounds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
