"""What services/kit/events/transport/base.py promises, asked of every broker that tests/brokers.py knows: publishing,
reading, where a group begins and goes on, settling. Leases and the wire have suites of their own."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from services.kit.events.patterns import PatternError
from services.kit.events.transport.base import (
    Delivery,
    Outgoing,
    TransportError,
)
from tests.brokers import Redis
from tests.contract.bus import Handling, Lane, in_order_once, nothing_is_left, numbers, send, take
from tests.waiting import patient

# -- publishing and reading ------------------------------------------------------------------------


async def test_an_event_arrives_whole(lane: Lane) -> None:
    sent = msgspec.structs.replace(
        lane.event(text="é ☃", deep={"list": [1, 2.5, None, True]}), extensions={"region": "nörd"}
    )
    await send(lane.connect(), [sent])
    (got,) = await take(await lane.join(), 1)
    assert got.event and got.event == msgspec.structs.replace(sent, time=got.event.time)
    assert got.event.time == pytest.approx(sent.time, abs=1e-5)
    assert (got.attempt, got.fault) == (1, "")


async def test_an_empty_batch_is_nothing(lane: Lane) -> None:
    assert await lane.connect().publish([]) == []


async def test_one_key_arrives_in_order(lane: Lane) -> None:
    bus, sent = lane.connect(), lane.events(300, keys=3)
    for start in range(0, 300, 70):
        await send(bus, sent[start : start + 70])
    got = await take(await lane.join(), 300)
    in_order_once([one.event for one in got if one.event], sent)


async def test_two_members_share_and_keep_the_order_of_each_key(lane: Lane, handling: Handling) -> None:
    bus, sent = lane.connect(), []
    handling.begin(await lane.join(member="first"), "first")
    handling.begin(await lane.join(member="second"), "second")
    n = 0
    deadline = time.monotonic() + patient(20)
    while len({name for name, _ in handling.handled}) < 2 or n < 400:
        more = [lane.event(key=f"k{number % 20}", n=n + number) for number in range(40)]
        n += len(more)
        sent += more
        await send(bus, more)
        await handling.count(n)
        assert time.monotonic() < deadline
    in_order_once([event for _, event in handling.handled], sent)


async def test_every_group_gets_every_event(lane: Lane) -> None:
    await send(lane.connect(), lane.events(40, keys=5))
    for group in ("one", "other"):
        assert sorted(numbers(await take(await lane.join(group), 40))) == list(range(40))


async def test_every_group_that_ever_subscribed_is_known_by_its_name(lane: Lane) -> None:
    await lane.join("one")
    await (await lane.join("other")).close()
    bus, deadline = lane.connect(), time.monotonic() + patient(10)
    while not {lane.group("one"), lane.group("other")} <= (known := await bus.groups()):
        assert time.monotonic() < deadline, known


async def test_only_matching_types_arrive_and_the_rest_counts_as_read(lane: Lane) -> None:
    bus = lane.connect()
    reader = await lane.join("g", "m", f"{lane.domain}.*.opened", f"{lane.domain}.system.#")
    await send(bus, [lane.event(kind, n=kind) for kind in ("account.opened", "account.closed", "system.is.up")])
    assert sorted(numbers(await take(reader, 2))) == ["account.opened", "system.is.up"]
    await nothing_is_left(lane, reader)


async def test_a_pattern_over_all_domains_finds_topics_that_come_later(lane: Lane) -> None:
    bus, later = lane.connect(), Lane(lane.broker)
    later.made = lane.made
    reader = await lane.join("g", "m", f"#.{lane.domain}", start="latest")
    await send(bus, [lane.event(f"x.{lane.domain}", n=1), lane.event("x.y", n=2)])
    assert numbers(await take(reader, 1)) == [1]
    await send(bus, [later.event(f"x.{lane.domain}", n=3)])
    assert numbers(await take(reader, 1)) == [3]


async def test_a_topic_of_its_own_is_read_by_who_names_it(lane: Lane) -> None:
    named = f"{lane.domain}-vip"
    reader = await lane.join(topics=[named])
    assert await lane.connect().publish([Outgoing(lane.event(n=1), named), Outgoing(lane.event(n=2))]) == [None, None]
    assert sorted(numbers(await take(reader, 2))) == [1, 2]


async def test_a_broken_pattern_is_refused_at_once(lane: Lane) -> None:
    with pytest.raises(PatternError):
        await lane.join("g", "m", "a..b")


# -- where a group begins and goes on ----------------------------------------------------------------


async def test_a_new_group_begins_where_it_asks_to(lane: Lane) -> None:
    bus = lane.connect()
    await send(bus, [lane.event(n=1)])
    between = await moment()
    await send(bus, [lane.event(n=2)])
    latest = await lane.join("late", start="latest")
    await send(bus, [lane.event(n=3)])
    assert numbers(await take(latest, 1)) == [3]
    assert numbers(await take(await lane.join("all"), 3)) == [1, 2, 3]
    assert numbers(await take(await lane.join("since", start=between), 2)) == [2, 3]


async def moment() -> float:
    """A time that is later than what was and earlier than what comes, by the clock in milliseconds."""
    await asyncio.sleep(0.02)
    now = time.time()
    await asyncio.sleep(0.02)
    return now


async def test_a_group_remembers_its_place_while_nobody_runs(lane: Lane) -> None:
    bus, first = lane.connect(), lane.connect()
    await send(bus, [lane.event(n=1)])
    await take(await lane.join(transport=first), 1)
    await first.close()
    await send(bus, [lane.event(n=2)])
    assert numbers(await take(await lane.join(start="latest"), 1)) == [2]


async def test_a_group_that_began_with_what_comes_remembers_that_too(lane: Lane) -> None:
    bus, first = lane.connect(), lane.connect()
    await send(bus, [lane.event(n=1)])
    reader = await lane.join(transport=first, start="latest")
    assert await reader.fetch(1, 0.1) == []
    await first.close()
    await send(bus, [lane.event(n=2)])
    assert numbers(await take(await lane.join(start="latest"), 1)) == [2]


async def test_a_group_seeks_to_the_beginning_a_time_and_the_end(lane: Lane) -> None:
    bus = lane.connect()
    reader = await lane.join()
    await send(bus, lane.events(3))
    between = await moment()
    await send(bus, [lane.event(n=3, key="k0"), lane.event(n=4, key="k0")])
    assert numbers(await take(reader, 5)) == [0, 1, 2, 3, 4]
    await reader.seek("earliest")
    assert numbers(await take(reader, 5)) == [0, 1, 2, 3, 4]
    await reader.seek(between)
    held = await take(reader, 1, ack=False)
    assert numbers(held) == [3]
    with pytest.raises(TransportError, match="in hand"):
        await reader.seek("latest")
    await reader.ack(held)
    await reader.seek("latest")
    await send(bus, [lane.event(n=5)])
    assert numbers(await take(reader, 1)) == [5]


async def test_the_lag_is_what_is_not_acknowledged(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join()
    await send(bus, lane.events(30, keys=3))
    deadline = time.monotonic() + patient(15)
    while sum((lag := await bus.lag(lane.group("g"))).values()) != 30:
        assert time.monotonic() < deadline, lag
    assert len([n for n in lag.values() if n]) in {1, 2, 3}
    await take(reader, 30)
    await nothing_is_left(lane, reader)


# -- settling --------------------------------------------------------------------------------------


async def test_acknowledged_is_never_seen_again(lane: Lane) -> None:
    bus, first = lane.connect(), lane.connect()
    await send(bus, lane.events(3))
    await take(await lane.join(transport=first), 3)
    await first.close()
    await send(bus, [lane.event(n=3, key="k0")])
    assert numbers(await take(await lane.join(member="other"), 1)) == [3]


async def test_given_back_it_comes_again_in_order_and_not_too_early(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join()
    await send(bus, lane.events(5))
    first = await take(reader, 5, ack=False)
    await reader.ack(first[:2])
    at = time.monotonic()
    # Only one is named: what came after it and is not settled goes back with it.
    await reader.nack([first[2]], delay_s=0.5)
    again = await take(reader, 3)
    assert time.monotonic() - at >= 0.5
    assert [one.event for one in again] == [one.event for one in first[2:]]
    assert [one.attempt for one in again] == [one.attempt + 1 for one in first[2:]]
    await nothing_is_left(lane, reader)


async def test_giving_back_holds_up_no_other_partition(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join()
    await send(bus, [lane.event(n=1, key="poison")])
    (poison,) = await take(reader, 1, ack=False)
    await reader.nack([poison], delay_s=60)
    await send(bus, lane.events(64, keys=64))
    # Some of 64 keys are in the held-up partition, and most are not.
    found: list[Delivery] = []
    async with asyncio.timeout(patient(10)):
        while len(found) < 40:
            some = await reader.fetch(100, 0.2)
            await reader.ack(some)
            found += some
    assert poison.place not in {one.place for one in found}


async def test_put_aside_it_is_kept_with_its_origin_and_never_seen_again(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join()
    await send(bus, lane.events(2))
    bad, good = await take(reader, 2, ack=False)
    # Whatever its consumer made of it: where a broker has its headers, it goes with its own body.
    seen = (
        bad
        if isinstance(lane.broker, Redis)
        else msgspec.structs.replace(bad, event=None, raw=b"all of it", forged=True)
    )
    await reader.dead_letter(seen, "it hurts")
    await reader.ack([good])
    await nothing_is_left(lane, reader)
    ((body, noted),) = await asyncio.to_thread(lane.broker.dead, lane.group("g"))
    assert body == bad.raw
    assert (noted["reason"], noted["topic"], noted["position"]) == ("it hurts", bad.topic, bad.position)
    assert noted["partition"] == str(bad.partition)


async def test_a_member_that_settles_nothing_holds_no_more_than_it_asked_for(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join()
    await send(bus, lane.events(500, keys=40))
    held = await take(reader, 50, ack=False)
    assert len(held) == 50
    assert await reader.fetch(50, 0.1) == []
    await reader.ack(held[:10])
    more: list[Delivery] = []
    async with asyncio.timeout(patient(10)):
        while len(more) < 10:
            more += await reader.fetch(50, 0.2)
    assert len(more) == 10
    assert await reader.fetch(50, 0.1) == []
