"""What Redis Streams do beside what every transport promises: their bounds, and a server that refuses or forgets."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
import redis

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.transport.base import Delivery, Outgoing, Subscription, TransportAway, partition_of
from services.kit.events.transport.redis_streams import RedisStreams
from services.kit.events.transport.redis_wire import stream_of
from tests.redis_server import admin_url
from tests.waiting import free_port, patient

COUNT = itertools.count(1)
STREAM = "mc:events:business:{}"

Make = Callable[..., RedisStreams]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    made: list[RedisStreams] = []

    def make(**options: int) -> RedisStreams:
        made.append(RedisStreams(redis_url, **options))
        return made[-1]

    yield make
    for transport in made:
        await transport.close()


def event(kind: str = "business.transaction.recorded", key: str = "k", **data: object) -> CloudEvent:
    return CloudEvent(
        id=str(uuid4()), type=kind, source="test", time=0.0, data=data, partition_key=key, sequence=next(COUNT)
    )


PLACE = ("business", partition_of(Outgoing(event())))


def outgoing(count: int) -> list[Outgoing]:
    return [Outgoing(event(n=n)) for n in range(count)]


async def take(reader: Subscription, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(patient(10)):
        while len(found) < count:
            found += await reader.fetch(count, 0.2)
    return found


async def test_a_broker_that_is_away_is_said_to_be() -> None:
    bus = RedisStreams(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(TransportAway, match="Redis"):
        await bus.publish(outgoing(1))
    await bus.close()


async def test_an_event_that_redis_refuses_does_not_take_the_others_along(redis_url: str, make: Make) -> None:
    odd = event("broken.thing.done")
    with redis.Redis.from_url(redis_url) as client:
        client.set(stream_of(("broken", partition_of(Outgoing(odd)))), "no stream")
    bus = make()
    first, refused, last = await bus.publish([Outgoing(event()), Outgoing(odd), Outgoing(event())])
    assert first is last is None
    assert "WRONGTYPE" in str(refused)
    # Nor does it stop who reads the topic.
    await bus.publish([Outgoing(event("broken.thing.done", key="another", n=1))])
    reader = await bus.subscribe(["broken.#", "business.#"], "g", "m", lease_s=1.0)
    assert len(await take(reader, 3)) == 3
    assert "broken/0" in await bus.lag("g") or "broken/1" in await bus.lag("g")


async def test_a_full_redis_counts_as_away_and_lets_readers_go_on(redis_url: str, make: Make) -> None:
    bus = make()
    reader = await bus.subscribe(["business.#"], "g", "m", lease_s=1.0)
    await bus.publish(outgoing(3))
    first = await take(reader, 1)
    with redis.Redis.from_url(admin_url(redis_url)) as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(TransportAway, match="takes nothing"):
                await bus.publish(outgoing(1))
            await reader.ack(first)
            assert await reader.extend() == set()
            await reader.ack(await take(reader, 2))
        finally:
            client.config_set("maxmemory", "0")
    assert sum((await bus.lag("g")).values()) == 0


async def test_what_every_group_has_acknowledged_leaves_first_and_nothing_is_lost(redis_url: str, make: Make) -> None:
    bus = make(keep=8000)
    reader = await bus.subscribe(["business.#"], "g", "m", lease_s=30.0)
    for _ in range(30):
        await bus.publish(outgoing(100))
        await reader.ack(await take(reader, 100))
    stats = bus.stats()
    with redis.Redis.from_url(redis_url) as client:
        length = client.xlen(stream_of(PLACE))
    assert 1000 <= length <= 1200, "an eighth of what the topic keeps"
    assert (stats.trimmed, stats.lost) == (3000 - length, 0)


async def test_what_a_group_has_not_read_stays_until_the_hard_bound_and_then_counts_as_lost(
    redis_url: str, make: Make
) -> None:
    bus = make(keep=2000)
    slow = await bus.subscribe(["business.#"], "slow", "m", lease_s=30.0)
    await bus.publish(outgoing(1))
    await slow.ack(await take(slow, 1))
    for _ in range(15):
        await bus.publish(outgoing(100))
    assert bus.stats().lost == 0
    for _ in range(15):
        await bus.publish(outgoing(100))
    stats = bus.stats()
    with redis.Redis.from_url(redis_url) as client:
        length = client.xlen(stream_of(PLACE))
    assert 2000 <= length <= 2100
    assert stats.trimmed == 3001 - length
    assert stats.lost == stats.trimmed - 1, "all but the one that the group had read"


async def test_what_was_read_and_never_acknowledged_counts_as_lost_too_and_blocks_nothing(make: Make) -> None:
    bus = make(keep=1000)
    holds = await bus.subscribe(["business.#"], "holds", "m", lease_s=30.0)
    await bus.publish(outgoing(250))
    await take(holds, 250)
    for _ in range(12):
        await bus.publish(outgoing(100))
    stats = bus.stats()
    assert stats.trimmed >= 250
    assert stats.lost == stats.trimmed
    await holds.close()
    heir = await bus.subscribe(["business.#"], "holds", "heir", lease_s=30.0)
    await bus.publish([Outgoing(event(n=-1))])
    async with asyncio.timeout(patient(10)):
        last = 0
        while last != -1:
            found = await heir.fetch(200, 0.2)
            await heir.ack(found)
            last = found[-1].event.data["n"] if found and found[-1].event else last


async def test_a_subscription_outlives_a_redis_that_forgot_everything(redis_url: str, make: Make) -> None:
    bus = make()
    # From now on: what came between the loss and its return is not to be skipped for all that.
    reader = await bus.subscribe(["business.#"], "g", "m", start="latest", lease_s=1.0)
    await bus.publish(outgoing(1))
    await reader.ack(await take(reader, 1))
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    await bus.publish([Outgoing(event(n=2))])
    (got,) = await take(reader, 1)
    assert got.event
    assert got.event.data == {"n": 2}


async def test_what_is_in_hand_when_redis_forgets_is_lost_and_told(redis_url: str, make: Make) -> None:
    bus = make()
    reader = await bus.subscribe(["business.#"], "g", "m", lease_s=1.0)
    await bus.publish(outgoing(1))
    await take(reader, 1)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert await reader.extend() == {PLACE}


async def test_a_member_that_comes_again_at_once_takes_over_from_itself(make: Make) -> None:
    bus = make()
    await bus.publish(outgoing(3))
    await take(await bus.subscribe(["business.#"], "g", "m", lease_s=600.0), 3)
    again = await bus.subscribe(["business.#"], "g", "m", lease_s=600.0)
    assert [one.attempt for one in await take(again, 3)] == [2, 2, 2]


async def test_a_reading_whose_answer_was_lost_is_taken_up_again(make: Make) -> None:
    bus = make()
    reader = await bus.subscribe(["business.#"], "g", "m", lease_s=30.0)
    await bus.publish(outgoing(200))
    numbers: list[int] = []
    async with asyncio.timeout(patient(20)):
        while len(numbers) < 200:
            fetching = asyncio.create_task(reader.fetch(7, 1.0))
            # Cancelled anywhere between asking and answer; sometimes not at all.
            for _ in range(len(numbers) % 23):
                await asyncio.sleep(0)
            if len(numbers) % 3:
                fetching.cancel()
            (found,) = await asyncio.gather(fetching, return_exceptions=True)
            if not isinstance(found, list):
                # What it may have taken is known to nobody: give all back by seeing what comes.
                found = await reader.fetch(7, 1.0)
            numbers += [one.event.data["n"] for one in found if one.event]
            await reader.ack(found)
    assert numbers == list(range(200))


async def test_a_stream_holds_the_event_as_json(redis_url: str, make: Make) -> None:
    sent = event(n=1)
    await make().publish([Outgoing(sent)])
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        ((_, fields),) = client.xrange(stream_of(PLACE))
    assert fields["t"] == sent.type
    assert json.loads(fields["e"])["id"] == sent.id


async def test_nothing_counts_as_taken_that_the_servers_log_does_not_have_yet(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it syncs to a slow disk, the server writes its log later than it answers, and a kill loses that."""
    transport = make()
    told = [(100, 50), (100, 70), (149, 21), (150, 30), (0, 0)]  # in the file, and waiting: of others as well

    async def info(section: str) -> dict[str, int]:
        size, waiting = told.pop(0)
        return {"aof_current_size": size, "aof_buffer_length": waiting}

    monkeypatch.setattr(transport._client, "info", info)
    await transport.publish([Outgoing(event())])
    assert told == [(0, 0)], "it waits for its own, and not for what others write meanwhile"
    await transport.publish([Outgoing(event())])
    assert told == []


async def test_whoever_waits_while_others_are_acknowledged_keeps_its_connection(make: Make, redis_url: str) -> None:
    transport = make()
    reader = await transport.subscribe(["business.#"], "g", "one")
    assert await reader.fetch(500, 0.1) == []

    def connections() -> int:
        with redis.Redis.from_url(admin_url(redis_url)) as admin:
            return int(admin.info("stats")["total_connections_received"])

    before, waiting = await asyncio.to_thread(connections), 0
    for count in range(30):
        await transport.publish(outgoing(1))
        [found] = await take(reader, 1)
        fetching = asyncio.create_task(reader.fetch(500, 0.05))
        await asyncio.sleep(0)
        await reader.ack([found])
        waiting += 1
        assert await fetching == [], count
    assert await asyncio.to_thread(connections) - before < waiting / 2
    assert await transport.lag("g") == {f"business/{number}": 0 for number in range(8)}


async def test_what_comes_while_it_waits_for_something_else_is_not_missed(make: Make) -> None:
    transport = make()
    reader = await transport.subscribe(["business.#", "system.#"], "g", "one")
    held: list[Delivery] = []
    # Given back, wanted later, of one topic and of the other: each finds the question to Redis that is open.
    for number in range(10):
        kind = ("business.transaction.recorded", "system.thing.done")[number % 2]
        fetching = asyncio.create_task(take(reader, 1))
        await asyncio.sleep(0)
        await transport.publish([Outgoing(event(kind, key=str(number), n=number))])
        [one] = await fetching
        assert one.event and one.event.data == {"n": number}
        if number % 3:
            await reader.ack([one])
        else:
            await reader.nack([one], 0.01)
            [again] = await take(reader, 1)
            assert again.event == one.event and again.attempt == 2
            held.append(again)
        await reader.ack(held)
        held.clear()
