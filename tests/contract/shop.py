"""A publisher and a consumer as services are, over one broker, each with a database that tells what became of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from fastapi import FastAPI
from sqlalchemy import Connection, text

from services.kit import published
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.consumer import Consumer
from services.kit.events.mending import Mender
from services.kit.events.repair import Published, Repair
from services.kit.events.retry import Away
from services.kit.events.transport.connect import connect
from services.kit.inbox import INBOX, SqlInbox
from services.kit.outbox import OUTBOX, Outbox
from services.kit.store import Migration, Store, Tables
from tests.brokers import Broker
from tests.signed import KEYS
from tests.waiting import patient

SEEN = Tables("seen", Migration("CREATE TABLE seen (id {serial}, key TEXT NOT NULL, n INTEGER NOT NULL)"))
KEYS_COUNT = 16


class Shop:
    """A publisher with its outbox and its own log, and a consumer with its inbox that keeps itself whole by it."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.domain = f"t{uuid4().hex[:8]}"
        self.group = f"{self.domain}-g"
        self.sends, self.reads = connect(broker.url), connect(broker.url)
        self.mine = Store(f"sqlite:///{folder / 'publisher.sqlite3'}", OUTBOX)
        self.theirs = Store(f"sqlite:///{folder / 'consumer.sqlite3'}", INBOX, SEEN)
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

    async def all_sent(self) -> bool:
        return not await self.waiting()

    async def all_seen(self) -> bool:
        return len(await self.seen()) >= len(self.sent)

    async def in_order_once(self) -> None:
        """Everything came, once, and in order within its key."""
        found = await self.seen()
        for key in {key for key, _ in self.sent}:
            assert [one for one in found if one[0] == key] == [one for one in self.sent if one[0] == key]

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
