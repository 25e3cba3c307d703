"""What apps.events.transport.base promises, asked of every transport. A new broker adds itself to ``TRANSPORTS``."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import uuid4

import pytest
import redis

from apps.events.transport.base import Delivery, Transport, TransportAway
from apps.events.transport.redis_streams import RedisStreams
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.patterns import PatternError
from tests.redis_server import admin_url

CLAIM_S = 0.4

Make = Callable[..., Transport]


@pytest.fixture(params=["redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes transports to one broker that is empty at the start, and closes them at the end."""
    makers: dict[str, Make] = {}
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        makers["redis"] = lambda **options: RedisStreams(url, claim_idle_s=CLAIM_S, **options)
    made: list[Transport] = []

    def make(**options: object) -> Transport:
        made.append(makers[request.param](**options))
        return made[-1]

    yield make
    for transport in made:
        await transport.close()


COUNT = itertools.count(1)


def event(kind: str = "business.transaction.recorded", key: str = "k", **data: object) -> CloudEvent:
    return CloudEvent(
        id=str(uuid4()),
        type=kind,
        source="test",
        time=round(time.time(), 3),
        data=data,
        subject="s",
        partition_key=key,
        sequence=next(COUNT),
        correlation_id="c",
        causation_id="d",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )


async def take(
    deliveries: AsyncIterator[Delivery], count: int, *, ack: bool = True, seconds: float = 8
) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            delivery = await anext(deliveries)
            if ack:
                await delivery.ack()
            found.append(delivery)
    return found


async def nothing_comes(deliveries: AsyncIterator[Delivery], seconds: float = 0.6) -> None:
    waiting = asyncio.ensure_future(anext(deliveries))
    done, _ = await asyncio.wait({waiting}, timeout=seconds)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not done, f"unexpected: {waiting.result().event}"


async def test_an_event_arrives_whole(make: Make) -> None:
    sent = event(text="é ☃", deep={"list": [1, 2.5, None, True]})
    bus = make()
    assert await bus.publish([sent]) == [None]
    (delivery,) = await take(make().subscribe(["business.#"], "g", "c1"), 1)
    assert delivery.event == replace(sent, time=delivery.event.time)
    assert delivery.event.time == pytest.approx(sent.time, abs=1e-5)
    assert delivery.attempt == 1


async def test_an_empty_batch_is_nothing(make: Make) -> None:
    assert await make().publish([]) == []


async def test_one_partition_key_arrives_in_order(make: Make) -> None:
    bus = make()
    sent = [event(key=f"k{n % 3}", n=n) for n in range(300)]
    for start in range(0, 300, 70):
        await bus.publish(sent[start : start + 70])
    got = [delivery.event for delivery in await take(make().subscribe(["business.#"], "g", "c"), 300)]
    for key in ("k0", "k1", "k2"):
        assert [one.id for one in got if one.partition_key == key] == [
            one.id for one in sent if one.partition_key == key
        ]


async def test_every_group_gets_every_event_and_a_group_shares_them(make: Make) -> None:
    sent = [event(n=n) for n in range(40)]
    await make().publish(sent)
    ids = {one.id for one in sent}
    alone = await take(make().subscribe(["business.#"], "alone", "c"), 40)
    assert {one.event.id for one in alone} == ids
    first, second = (make().subscribe(["business.#"], "shared", name) for name in ("c1", "c2"))
    one = await take(first, 1)
    got: list[str] = [one[0].event.id]
    complete = asyncio.Event()

    async def drain(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            await delivery.ack()
            got.append(delivery.event.id)
            if len(got) == 80:
                complete.set()

    await make().publish(more := [event(n=n) for n in range(40)])
    tasks = [asyncio.create_task(drain(first)), asyncio.create_task(drain(second))]
    async with asyncio.timeout(8):
        await complete.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(got) == sorted(ids | {one.id for one in more}), "each exactly once"


async def test_only_matching_types_arrive(make: Make) -> None:
    bus = make()
    kinds = ["business.transaction.recorded", "business.account.opened", "system.instance.healthy"]
    await bus.publish([event(kind) for kind in kinds])
    got = await take(make().subscribe(["business.*.opened", "system.#"], "g", "c"), 2)
    assert sorted(one.event.type for one in got) == [kinds[1], kinds[2]]


async def test_a_pattern_over_all_domains_finds_domains_that_come_later(make: Make) -> None:
    deliveries = make().subscribe(["#.opened"], "g", "c")
    waiting = asyncio.ensure_future(take(deliveries, 2))
    await asyncio.sleep(0.1)
    bus = make()
    await bus.publish([event("first.account.opened"), event("first.account.closed")])
    await asyncio.sleep(0.3)
    await bus.publish([event("second.account.opened")])
    assert sorted(one.event.type for one in await waiting) == ["first.account.opened", "second.account.opened"]


async def test_a_broken_pattern_is_refused_at_once(make: Make) -> None:
    with pytest.raises(PatternError):
        make().subscribe(["a..b"], "g", "c")


async def test_a_new_group_begins_where_it_asks_to(make: Make) -> None:
    bus = make()
    await bus.publish([event(n=1)])
    latest = make().subscribe(["business.#"], "late", "c", start="latest")
    waiting = asyncio.ensure_future(take(latest, 1))
    await asyncio.sleep(0.3)
    await bus.publish([event(n=2)])
    assert [one.event.data["n"] for one in await waiting] == [2]
    assert [one.event.data["n"] for one in await take(make().subscribe(["business.#"], "all", "c"), 2)] == [1, 2]


async def test_a_group_remembers_its_place_while_nobody_runs(make: Make) -> None:
    bus = make()
    await bus.publish([event(n=1)])
    first = make()
    await take(first.subscribe(["business.#"], "g", "c"), 1)
    await first.close()
    await bus.publish([event(n=2)])
    got = await take(make().subscribe(["business.#"], "g", "c"), 1)
    assert [one.event.data["n"] for one in got] == [2]


async def test_acknowledged_is_never_seen_again(make: Make) -> None:
    await make().publish([event()])
    await take(make().subscribe(["business.#"], "g", "c"), 1)
    await nothing_comes(make().subscribe(["business.#"], "g", "c2"), CLAIM_S * 3)


async def test_refused_is_delivered_again_and_says_how_often(make: Make) -> None:
    await make().publish([event()])
    deliveries = make().subscribe(["business.#"], "g", "c")
    (first,) = await take(deliveries, 1, ack=False)
    await first.nack()
    (second,) = await take(deliveries, 1)
    assert second.event == first.event
    assert (first.attempt, second.attempt) == (1, 2)


async def test_what_a_dead_consumer_held_goes_to_another(make: Make) -> None:
    await make().publish([event(n=n) for n in range(5)])
    dead = make()
    held = await take(dead.subscribe(["business.#"], "g", "dead"), 5, ack=False)
    await dead.close()
    got = await take(make().subscribe(["business.#"], "g", "heir"), 5)
    assert [one.event.id for one in got] == [one.event.id for one in held]
    assert all(one.attempt == 2 for one in got)


async def test_what_is_held_is_nobody_elses_until_the_claim_time(make: Make) -> None:
    await make().publish([event()])
    await take(make().subscribe(["business.#"], "g", "c1"), 1, ack=False)
    await nothing_comes(make().subscribe(["business.#"], "g", "c2"), CLAIM_S / 2)


async def test_closing_ends_the_iteration(make: Make) -> None:
    bus = make()
    deliveries = bus.subscribe(["business.#"], "g", "c")
    waiting = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0.1)
    await bus.close()
    with pytest.raises(StopAsyncIteration):
        async with asyncio.timeout(5):
            await waiting


# -- Redis Streams alone -------------------------------------------------------------------------


def nobody_listens() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{probe.getsockname()[1]}/0"


async def test_a_broker_that_is_away_is_said_to_be() -> None:
    bus = RedisStreams(nobody_listens())
    with pytest.raises(TransportAway, match="Redis"):
        await bus.publish([event()])
    await bus.close()


async def test_an_event_that_redis_refuses_does_not_take_the_others_along(redis_url: str, make: Make) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("mc:events:broken", "no stream")
    first, refused, last = await make().publish([event(), event("broken.thing.done"), event()])
    assert first is last is None
    assert "WRONGTYPE" in str(refused)


async def test_a_full_redis_counts_as_away(redis_url: str, make: Make) -> None:
    with redis.Redis.from_url(admin_url(redis_url)) as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(TransportAway, match="takes nothing"):
                await make().publish([event()])
        finally:
            client.config_set("maxmemory", "0")


async def test_what_is_no_event_is_counted_and_blocks_nothing(redis_url: str, make: Make) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("mc:events:business", {"e": "no json", "t": "business.x.y"})
        client.xadd("mc:events:business", {"other": "fields"})
        await make().publish([event(n=1)])
        bus = make()
        (got,) = await take(bus.subscribe(["business.#"], "g", "c"), 1)
        assert got.event.data == {"n": 1}
        assert bus.stats().malformed == 2
        assert client.xpending("mc:events:business", "g")["pending"] == 0


async def test_a_stream_is_bounded_and_says_what_a_slow_group_lost(redis_url: str, make: Make) -> None:
    bus = make(keep=1000)
    await bus.publish([event(n=0)])
    slow = make().subscribe(["business.#"], "slow", "c")
    await take(slow, 1)
    for _ in range(30):
        await bus.publish([event(n=n) for n in range(100)])
    stats = bus.stats()
    with redis.Redis.from_url(redis_url) as client:
        length = client.xlen("mc:events:business")
    assert 1000 <= length <= 1100
    assert stats.trimmed == 3001 - length
    assert stats.lost == stats.trimmed - 1, "all but the one that the group had read"


async def test_what_was_read_and_never_acknowledged_counts_as_lost_too(make: Make) -> None:
    bus = make(keep=1000)
    await bus.publish([event(n=n) for n in range(10)])
    await take(make().subscribe(["business.#"], "holds", "c"), 10, ack=False)
    for _ in range(12):
        await bus.publish([event() for _ in range(100)])
    stats = bus.stats()
    assert stats.trimmed >= 100
    assert stats.lost == stats.trimmed


async def test_what_was_held_when_the_stream_was_cut_blocks_nothing(make: Make) -> None:
    bus = make(keep=1000)
    await bus.publish([event(n=n) for n in range(250)])
    await take(make().subscribe(["business.#"], "g", "dead"), 250, ack=False)
    for _ in range(20):
        await bus.publish([event(n=-1) for _ in range(100)])
    await bus.publish([event(n=-2)])
    heir = make().subscribe(["business.#"], "g", "heir")
    async with asyncio.timeout(8):
        async for delivery in heir:
            await delivery.ack()
            if delivery.event.data["n"] == -2:
                break
    await bus.publish([event(n=-3)])
    (first,) = await take(heir, 1, ack=False)
    await first.nack()
    (second,) = await take(heir, 1)
    assert (second.event.data, second.attempt) == ({"n": -3}, 2), "redelivery still finds what there is"


async def test_a_group_that_keeps_up_loses_nothing(make: Make) -> None:
    bus = make(keep=1000)
    await bus.publish([event()])
    fast = make().subscribe(["business.#"], "fast", "c")
    await take(fast, 1)
    for _ in range(30):
        await bus.publish([event() for _ in range(100)])
        await take(fast, 100)
    stats = bus.stats()
    assert stats.trimmed > 1000
    assert stats.lost == 0


async def test_a_subscription_outlives_a_redis_that_forgot_everything(redis_url: str, make: Make) -> None:
    bus = make()
    deliveries = make().subscribe(["business.#"], "g", "c")
    await bus.publish([event(n=1)])
    await take(deliveries, 1)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()

    async def publish_again() -> None:
        while True:
            await bus.publish([event(n=2)])
            await asyncio.sleep(0.2)

    publishing = asyncio.create_task(publish_again())
    got = await take(deliveries, 1)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert got[0].event.data == {"n": 2}


async def test_services_speak_the_same_wire(redis_url: str, make: Make) -> None:
    kit = pytest.importorskip("services.kit.bus")
    ours = event()
    await make().publish([ours])
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        ((_, fields),) = client.xrange(kit.STREAM_PREFIX + "business")
        assert client.smembers(kit.DOMAINS) == {"business"}
    theirs = kit.decode(fields["e"])
    assert fields["t"] == theirs.type == ours.type
    assert (theirs.id, theirs.data, theirs.traceparent) == (ours.id, ours.data, ours.traceparent)
