"""A process beside P6's publisher: ``python -m benchmarks.bus_parts relay|consumer|bare BROKER URL REDIS_URL``.

A reader is told on standard input how many more events are to come, and says on standard output when it has had them.
Told of none, each says what its processor time was since it was asked before, in seconds. It ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import django
from sqlalchemy import Connection

from benchmarks.bus_peers import PEERS
from services.kit import garbage
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.consumer import Consumer
from services.kit.events.signing import CONTROL, Ring
from services.kit.events.transport.connect import connect
from services.kit.inbox import INBOX, SqlInbox
from services.kit.store import Store

KEY = "MC_BENCH_KEY"
"""The variable with the secret that events are signed by."""


class Counter:
    """Counts what is handled, and says when it was as much as was wanted."""

    def __init__(self) -> None:
        self.count = self.goal = 0

    def add(self, count: int) -> None:
        self.count += count
        if count and self.count == self.goal:
            print("reached", flush=True)

    def handle(self, connection: Connection, event: CloudEvent) -> None:
        """As a handler."""
        self.add(1)


async def told(each: Callable[[int], None]) -> None:
    """Say that it is ready, and do what it is told until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    garbage.settle()
    print("ready", flush=True)
    before = 0.0
    async for line in reader:
        if more := int(line):
            each(more)
            continue
        spent = time.process_time()
        print(spent - before, flush=True)
        before = spent


async def relay(broker: str, url: str, redis_url: str) -> None:
    """Mission Control's relay alone."""
    django.setup()
    # Models can't be imported before.
    from apps.events.relay import Relay

    transport = connect(url)
    one = Relay(transport, Ring.of([(CONTROL, os.environ[KEY])]), redis_url)
    task = asyncio.create_task(one.run())
    await told(lambda _: None)
    one.stop()
    await task
    await transport.close()


async def consumer(broker: str, url: str, redis_url: str) -> None:
    """A service's consumer whose handler does nothing: its inbox row is the effect."""
    store = Store(f"sqlite:///{Path(os.environ['MC_HOME']) / 'consumer.sqlite3'}", INBOX)
    await store.start()
    counter = Counter()
    transport = connect(url)
    inbox = SqlInbox(store, "bench", counter.handle, system=broker)
    keys = Ring.of([(CONTROL, os.environ[KEY])])
    one = Consumer(transport, inbox, ["bench.#"], keys=keys, group="bench", member="one")
    await one.start()
    await told(lambda more: setattr(counter, "goal", counter.goal + more))
    await one.stop()
    await transport.close()
    await store.stop()


async def bare(broker: str, url: str, redis_url: str) -> None:
    """The broker's client, reading."""
    peer = PEERS[broker](url)
    await peer.begin(reads=True)
    counter = Counter()

    async def read() -> None:
        while True:
            counter.add(await peer.consume())

    task = asyncio.create_task(read())
    await told(lambda more: setattr(counter, "goal", counter.goal + more))
    task.cancel()
    await asyncio.wait({task})
    await peer.end()


Part = Callable[[str, str, str], Coroutine[Any, Any, None]]
PARTS: dict[str, Part] = {
    "relay": relay,
    "consumer": consumer,
    "bare": bare,
}


def main(part: str, broker: str, url: str, redis_url: str) -> None:
    """Run it."""
    asyncio.run(PARTS[part](broker, url, redis_url))


if __name__ == "__main__":
    main(*sys.argv[1:])
