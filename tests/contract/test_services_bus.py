"""Both sides of the bus agree: what services write, Mission Control reads, and the other way round."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, text

from services.kit import bus as kit
from services.kit.bus import INBOX, Bus, Consumer
from services.kit.checks import Unwell
from services.kit.events.cloudevent import CloudEvent, decode, encode
from services.kit.outbox import OUTBOX, Outbox
from services.kit.store import Migration, Store

TYPE = "business.transaction.recorded"
SEEN = Migration(("CREATE TABLE seen (event_id TEXT NOT NULL)",))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}", [INBOX, OUTBOX, SEEN])
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    made = Bus(redis_url)
    yield made
    await made.stop()


def note(connection: Connection, event: CloudEvent) -> None:
    connection.execute(text("INSERT INTO seen VALUES (:id)"), {"id": event.id})


async def seen(store: Store) -> list[str]:
    return await store.read(lambda c: [row.event_id for row in c.execute(text("SELECT event_id FROM seen"))])


async def eventually(store: Store, expected: list[str]) -> None:
    await soon(lambda: seen(store), expected)


async def soon(look: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Until ``look`` finds what is expected, ten seconds at most."""
    async with asyncio.timeout(10):
        while True:
            if await look() == expected:
                return
            await asyncio.sleep(0.02)


def consumer(bus: Bus, store: Store, handler: kit.Handler = note, member: str = "one") -> Consumer:
    return Consumer(bus, store, group="tests", member=member, type=TYPE, handler=handler)


def encoded(identity: str, **changes: Any) -> str:
    made: dict[str, Any] = {"id": identity, "source": "tests", "type": TYPE, "time": 1.8e9, "data": {}} | changes
    return encode(CloudEvent(**made)).decode()


async def test_an_event_reaches_its_consumer_once_in_order_and_is_acknowledged(bus: Bus, store: Store) -> None:
    await bus.publish((TYPE, encoded(f"e{number}")) for number in (1, 2, 2, 3, 1))
    reader = consumer(bus, store)
    await reader.start()
    await eventually(store, ["e1", "e2", "e3"])
    await bus.publish([(TYPE, encoded("e4")), ("business.other.thing", encoded("x", type="business.other.thing"))])
    await eventually(store, ["e1", "e2", "e3", "e4"])
    await reader.probe()
    await reader.stop()
    assert (await bus.redis.xpending(kit.stream_of(TYPE), "tests"))["pending"] == 0
    assert await bus.redis.smembers(kit.DOMAINS) == {"business"}


async def test_a_stop_in_the_middle_of_a_read_never_waits_for_it(
    bus: Bus, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = bus.redis.xreadgroup
    for steps in range(12):
        reader = consumer(bus, store)

        # The cancellation meets the command before it is written, while it is, and after.
        async def interrupted(*args: Any, steps: int = steps, reader: Consumer = reader, **options: Any) -> Any:
            if "block" in options:
                asyncio.get_running_loop().call_soon(reader._stopping.set)
                for _ in range(steps):
                    await asyncio.sleep(0)
            return await read(*args, **options)

        monkeypatch.setattr(bus.redis, "xreadgroup", interrupted)
        await reader.start()
        await reader._stopping.wait()
        async with asyncio.timeout(1):
            await reader.stop()


class Counted:
    """In the place of the counter of handled events: how many of each outcome."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def add(self, amount: int, attributes: dict[str, str]) -> None:
        self.outcomes[attributes["outcome"]] += amount


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    made = Counted()
    monkeypatch.setattr(kit, "_handled", made)
    return made.outcomes


async def is_well(reader: Consumer) -> bool:
    try:
        await reader.probe()
    except Unwell:
        return False
    return True


async def read_all(bus: Bus, store: Store, expected: list[str]) -> None:
    reader = consumer(bus, store)
    await reader.start()
    await soon(partial(is_well, reader), True)
    await eventually(store, expected)
    await reader.stop()


async def test_events_trimmed_before_a_group_came_back_are_noticed_once(
    bus: Bus, store: Store, counted: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    await bus.publish([(TYPE, encoded("e1"))])
    await read_all(bus, store, ["e1"])
    await bus.publish((TYPE, encoded(f"e{number}")) for number in range(2, 7))
    await bus.redis.xtrim(kit.stream_of(TYPE), maxlen=2, approximate=False)
    await read_all(bus, store, ["e1", "e5", "e6"])
    await read_all(bus, store, ["e1", "e5", "e6"])
    assert counted == {"handled": 3, "gap": 1}
    assert caplog.text.count("trimmed before tests read them") == 1


async def test_a_group_that_falls_behind_the_trimming_while_it_reads_is_noticed(
    bus: Bus,
    store: Store,
    redis_url: str,
    counted: Counter[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kit, "BATCH", 2)
    stream = kit.stream_of(TYPE)
    with redis.Redis.from_url(redis_url) as client:

        def slow(connection: Connection, event: CloudEvent) -> None:
            note(connection, event)
            if event.id in {"e2", "e5"}:
                client.xtrim(stream, minid=client.xrange(stream)[-6 if event.id == "e2" else -3][0], approximate=False)

        await bus.publish((TYPE, encoded(f"e{number}")) for number in range(1, 10))
        reader = consumer(bus, store, slow)
        await reader.start()
        await eventually(store, ["e1", "e2", "e4", "e5", "e7", "e8", "e9"])
        await reader.stop()
    assert counted == {"handled": 7, "gap": 2}
    assert caplog.text.count("trimmed before tests read them") == 1


async def test_trimming_what_was_read_or_was_there_before_the_group_is_no_gap(
    bus: Bus, store: Store, counted: Counter[str]
) -> None:
    await bus.publish((TYPE, encoded(f"e{number}")) for number in range(1, 7))
    await bus.redis.xtrim(kit.stream_of(TYPE), maxlen=4, approximate=False)
    await read_all(bus, store, ["e3", "e4", "e5", "e6"])
    await bus.redis.xtrim(kit.stream_of(TYPE), maxlen=1, approximate=False)
    await read_all(bus, store, ["e3", "e4", "e5", "e6"])
    await bus.redis.xtrim(kit.stream_of(TYPE), maxlen=0, approximate=False)
    await read_all(bus, store, ["e3", "e4", "e5", "e6"])
    assert counted == {"handled": 4}


async def test_a_bus_that_takes_calls_and_never_answers_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bus.ask, "__defaults__", (0.1,))

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    silent = Bus(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    reader = consumer(silent, store)
    await reader.start()
    with pytest.raises(Unwell, match="does not answer"):
        await silent.probe()
    with pytest.raises(OSError):
        await silent.publish([(TYPE, encoded("e1"))])
    async with asyncio.timeout(1):
        await reader.stop()
    await silent.stop()
    server.close()


async def test_a_handler_that_fails_is_tried_again_and_holds_up_nobody(bus: Bus, store: Store) -> None:
    failures = iter([ValueError("not yet"), ValueError("not yet")])

    def moody(connection: Connection, event: CloudEvent) -> None:
        note(connection, event)
        if event.id == "moody" and (failure := next(failures, None)):
            raise failure

    await bus.publish([(TYPE, encoded("moody")), (TYPE, encoded("calm"))])
    reader = consumer(bus, store, moody)
    await reader.start()
    await eventually(store, ["calm", "moody"])
    await reader.stop()
    assert (await bus.redis.xpending(kit.stream_of(TYPE), "tests"))["pending"] == 0


async def test_an_event_whose_handler_was_cut_off_is_handled_by_the_next_start(bus: Bus, store: Store) -> None:
    await bus.publish([(TYPE, encoded("e1"))])
    await bus.redis.xgroup_create(kit.stream_of(TYPE), "tests", id="0")
    await bus.redis.xreadgroup("tests", "one", {kit.stream_of(TYPE): ">"})
    reader = consumer(bus, store)
    await reader.start()
    await eventually(store, ["e1"])
    await reader.stop()


async def test_an_event_that_ends_every_process_is_parked_in_the_end(bus: Bus, store: Store, redis_url: str) -> None:
    await bus.publish([(TYPE, encoded("killer"))])
    await bus.redis.xgroup_create(kit.stream_of(TYPE), "tests", id="0")
    for start in [">", *["0"] * kit.MAX_CRASHES]:
        await bus.redis.xreadgroup("tests", "one", {kit.stream_of(TYPE): start})
    reader = consumer(bus, store)
    await reader.start()
    await soon(lambda: bus.redis.xlen(kit.DEAD_PREFIX + "tests"), 1)
    await reader.stop()
    assert await seen(store) == []
    with redis.Redis.from_url(redis_url) as client:
        assert client.xpending(kit.stream_of(TYPE), "tests")["pending"] == 0


async def test_a_bus_that_came_back_empty_is_joined_afresh(bus: Bus, store: Store) -> None:
    reader = consumer(bus, store)
    await reader.start()
    await bus.publish([(TYPE, encoded("e1"))])
    await eventually(store, ["e1"])
    await bus.redis.flushall()
    await bus.publish([(TYPE, encoded("e2"))])
    await eventually(store, ["e1", "e2"])
    await reader.stop()


async def test_the_outbox_publishes_in_order_only_what_was_committed(bus: Bus, store: Store) -> None:
    outbox = Outbox(store, bus, "tests")

    def undone(connection: Connection) -> None:
        outbox.record(connection, TYPE, {"number": -1})
        raise KeyError("changed my mind")

    with pytest.raises(KeyError):
        await store.write(undone)
    for number in range(300):
        await store.write(lambda c, n=number: outbox.record(c, TYPE, {"number": n}, subject=str(n)))
    await outbox.start()
    stream = kit.stream_of(TYPE)
    await soon(lambda: bus.redis.xlen(stream), 300)
    await outbox.probe()
    await outbox.stop()
    entries = [decode(fields["e"]) for _, fields in await bus.redis.xrange(stream)]
    assert [entry.data["number"] for entry in entries] == list(range(300))
    assert len({entry.id for entry in entries}) == 300
    assert await store.read(lambda c: c.execute(text("SELECT COUNT(*) FROM outbox")).scalar_one()) == 0
    with pytest.raises(ValueError, match="dots"):
        await store.write(lambda c: outbox.record(c, "Recorded", {}))


async def test_a_consumer_without_a_bus_says_so(store: Store) -> None:
    away = Bus("redis://127.0.0.1:9/0")
    reader = consumer(away, store)
    await reader.start()
    with pytest.raises(Unwell, match="can't be read"):
        await reader.probe()
    with pytest.raises(Unwell, match="does not answer"):
        await away.probe()
    await reader.stop()
    await away.stop()
