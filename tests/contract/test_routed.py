"""Several real brokers under rules: what moves between them while it is under way, and one that is away."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.consumer import Consumer
from services.kit.events.routing import Document, Rule
from services.kit.events.transport import moves
from services.kit.events.transport.routed import Routed
from services.kit.inbox import INBOX, SqlInbox
from services.kit.outbox import OUTBOX, Outbox
from services.kit.store import Migration, Store, Tables
from tests.brokers import KINDS, Broker
from tests.signed import KEYS
from tests.waiting import patient

SEEN = Tables(
    "seen",
    Migration("CREATE TABLE seen (id {serial}, key TEXT NOT NULL, number INTEGER NOT NULL, member TEXT NOT NULL)"),
)
TABLES = (INBOX, OUTBOX, SEEN)
KEYS_COUNT = 40


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Broker]]:
    """Starts a broker when it is first asked for."""
    running: dict[str, Broker] = {}

    def start(kind: str) -> Broker:
        if kind not in running:
            made = KINDS[kind](tmp_path_factory.mktemp("broker"))
            made.start()
            running[kind] = made
        return running[kind]

    yield start
    for broker in running.values():
        broker.end()


class World:
    """A publisher with its outbox, and a group of two members, on several brokers."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self.urls = urls
        self.domain = f"t{uuid4().hex[:8]}"
        self.store = Store(f"sqlite:///{folder / 'store.sqlite3'}", *TABLES)
        self.routes: list[Routed] = []
        self.revision = itertools.count(1)
        self.last: tuple[Rule, ...] = (Rule("#", "default"),)
        self.numbers = dict.fromkeys((f"k{at}" for at in range(KEYS_COUNT)), 0)
        self.publisher = self.routed()
        self.outbox = Outbox(self.store, self.publisher, "tests", keys=KEYS)
        self.consumers: list[Consumer] = []

    def routed(self) -> Routed:
        made = Routed(self.urls, "redis")
        self.routes.append(made)
        return made

    @asynccontextmanager
    async def run(self, members: int = 2) -> AsyncIterator[World]:
        await self.store.start()
        await self.outbox.start()
        for name in range(members):
            self.consumers.append(self.member(f"m{name}"))
        for consumer in self.consumers:
            await consumer.start()
        try:
            yield self
        finally:
            for consumer in self.consumers:
                await consumer.stop()
            await self.outbox.stop()
            for routed in self.routes:
                await routed.close()
            await self.store.stop()

    def member(self, name: str) -> Consumer:
        def handler(connection: Connection, event: CloudEvent) -> None:
            connection.execute(
                text("INSERT INTO seen (key, number, member) VALUES (:key, :number, :member)"),
                {"key": event.partition_key, "number": event.data["number"], "member": name},
            )

        inbox = SqlInbox(self.store, self.domain, handler, gapless=True)
        return Consumer(
            self.routed(), inbox, [f"{self.domain}.#"], keys=KEYS, group=self.domain, member=name, lease_s=patient(5.0)
        )

    def go_by(self, *rules: Rule) -> None:
        """New rules, for everybody at about the same time."""
        document = Document(next(self.revision), rules, self.last)
        self.last = rules + self.last
        for routed in self.routes:
            routed.adopt(document)

    async def record(self, rounds: int) -> None:
        """One event of each key a round."""

        def work(connection: Connection) -> None:
            for key in self.numbers:
                self.numbers[key] += 1
                data = {"number": self.numbers[key]}
                self.outbox.record(connection, f"{self.domain}.thing.done", data, partition_key=key)

        for _ in range(rounds):
            await self.store.write(work)
            self.outbox.nudge()
            await asyncio.sleep(0.02)

    async def seen(self) -> dict[str, list[int]]:
        rows: Any = await self.store.read(
            lambda connection: connection.execute(text("SELECT key, number FROM seen ORDER BY id")).all()
        )
        found: dict[str, list[int]] = {key: [] for key in self.numbers}
        for key, number in rows:
            found[key].append(number)
        return found

    async def has_come(self, key: str, seconds: float) -> None:
        """Something of the key, whatever else waits."""
        async with asyncio.timeout(patient(seconds)):
            while not (await self.seen())[key]:  # noqa: ASYNC110 - the store rings no bell
                await asyncio.sleep(0.1)

    async def all_seen(self, seconds: float) -> dict[str, list[int]]:
        """What came, when as much has come as was recorded."""
        deadline = time.monotonic() + patient(seconds)
        while time.monotonic() < deadline:
            seen = await self.seen()
            if sum(map(len, seen.values())) >= sum(self.numbers.values()):
                break
            await asyncio.sleep(0.1)
        return seen

    async def is_whole(self, seconds: float) -> None:
        """Each event once, and each key in its order."""
        seen = await self.all_seen(seconds)
        assert seen == {key: list(range(1, last + 1)) for key, last in self.numbers.items()}


PAIRS = [
    pytest.param("redis", "rabbitmq", marks=pytest.mark.rabbitmq),
    pytest.param("redis", "kafka", marks=pytest.mark.kafka),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_a_rule_that_moves_under_load_loses_repeats_and_overtakes_nothing(
    brokers: Callable[[str], Broker], tmp_path: Path, one: str, other: str
) -> None:
    world = World(tmp_path, {one: brokers(one).url, other: brokers(other).url})
    async with world.run():
        load = asyncio.create_task(world.record(250))
        for turn in range(4):
            await asyncio.sleep(patient(2.0))
            world.go_by(Rule(f"{world.domain}.#", other if turn % 2 == 0 else one))
        await load
        await world.is_whole(60)
        for kind in (one, other):
            assert await asyncio.to_thread(brokers(kind).seen, world.domain), f"{kind} carried its part"


@pytest.mark.rabbitmq
async def test_an_old_broker_that_is_dead_is_waited_for_only_so_long(
    tmp_path: Path, brokers: Callable[[str], Broker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(moves, "AWAY_S", 2.0)
    redis = KINDS["redis"](tmp_path / "redis")
    redis.start()
    world = World(tmp_path, {"redis": redis.url, "rabbitmq": brokers("rabbitmq").url})
    try:
        async with world.run(members=1):
            await world.record(5)
            await world.is_whole(20)
            redis.kill()
            world.go_by(Rule(f"{world.domain}.#", "rabbitmq"))
            await world.record(5)
            await world.is_whole(30)
            assert "without waiting for what is there" in caplog.text
    finally:
        redis.end()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("redis"),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ],
)
async def test_what_goes_to_a_broker_that_is_away_waits_and_nothing_else_does(tmp_path: Path, kind: str) -> None:
    """The others' events go; what waits is counted by its broker; it comes back in order, none lost, none twice."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "well").mkdir()
    gone = KINDS[kind](tmp_path / "gone")
    well = KINDS["redis"](tmp_path / "well")
    gone.start()
    well.start()
    # Two brokers of one kind are told apart by what the URLs are under.
    world = World(tmp_path, {"redis": well.url, "other": gone.url})
    other = f"{world.domain}.thing.done"
    try:
        async with world.run(members=1):
            world.go_by(Rule(other, "other"))
            await world.record(10)
            await world.is_whole(90)
            await asyncio.to_thread(gone.ripen, world.domain)
            gone.kill()
            await world.record(20)
            plain = f"{world.domain}.plain.done"

            def work(connection: Connection) -> None:
                world.outbox.record(connection, plain, {"number": 1}, partition_key="plain")

            await world.store.write(work)
            world.outbox.nudge()
            world.numbers["plain"] = 1
            await world.has_come("plain", 20)
            waiting = {one.type: one.count for one in await world.outbox.waiting()}
            assert waiting == {other: 20 * KEYS_COUNT}
            assert world.publisher.carriers(other) == {"other"}
            gone.start()
            await world.is_whole(90)
            assert await world.outbox.waiting() == []
    finally:
        gone.end()
        well.end()
