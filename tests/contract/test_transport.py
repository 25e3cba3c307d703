"""What services/kit/events/transport/base.py promises, asked of every broker that tests/brokers.py knows."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.bindings import rabbitmq as sdk_rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent

from services.kit.events.cloudevent import MAX_DATA, CloudEvent
from services.kit.events.patterns import PatternError
from services.kit.events.transport.base import (
    ANSWER_S,
    Delivery,
    Outgoing,
    Subscription,
    Transport,
    TransportAway,
    TransportError,
)
from services.kit.events.transport.connect import connect
from tests.brokers import KINDS, MARKERS, Broker, Entry, Redis
from tests.waiting import patient

LEASE_S = patient(1.0)
"""Of a machine that has time."""

COUNT = itertools.count(1)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Broker]]:
    """Starts a broker when it is first asked for."""
    running: dict[str, Broker] = {}

    def start(kind: str) -> Broker:
        if kind not in running:
            made = KINDS[kind](tmp_path_factory.mktemp("broker"))
            running[kind] = made
            made.start()
        return running[kind]

    yield start
    for broker in running.values():
        broker.end()


@pytest.fixture(
    params=[pytest.param(kind, marks=getattr(pytest.mark, MARKERS[kind]) if kind in MARKERS else ()) for kind in KINDS]
)
def broker(request: pytest.FixtureRequest, started: Callable[[str], Broker]) -> Broker:
    return started(request.param)


class Lane:
    """A test's own part of a broker: topic and groups that no other test uses."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.domain = f"t{next(COUNT)}x{uuid4().hex[:6]}"
        self.pattern = f"{self.domain}.#"
        self.made: list[Transport] = []

    def connect(self) -> Transport:
        self.made.append(connect(self.broker.url))
        return self.made[-1]

    def group(self, name: str) -> str:
        return f"{self.domain}-{name}"

    async def join(
        self, group: str = "g", member: str = "m", *patterns: str, transport: Transport | None = None, **options: Any
    ) -> Subscription:
        return await (transport or self.connect()).subscribe(
            patterns or [self.pattern], self.group(group), member, **({"lease_s": LEASE_S} | options)
        )

    def event(self, kind: str = "thing.done", key: str = "k", **data: object) -> CloudEvent:
        return CloudEvent(
            id=str(uuid4()),
            type=f"{self.domain}.{kind}",
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

    def events(self, count: int, keys: int = 1) -> list[CloudEvent]:
        return [self.event(key=f"k{n % keys}", n=n) for n in range(count)]


@pytest.fixture
async def lane(broker: Broker) -> AsyncIterator[Lane]:
    made = Lane(broker)
    yield made
    for transport in made.made:
        await transport.close()


async def send(transport: Transport, events: Sequence[CloudEvent]) -> None:
    assert await transport.publish([Outgoing(event) for event in events]) == [None] * len(events)


async def take(reader: Subscription, count: int, *, ack: bool = True, seconds: float = 15) -> list[Delivery]:
    """The next ``count`` deliveries."""
    found: list[Delivery] = []
    deadline = time.monotonic() + patient(seconds)
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came: {[one.event or one.fault for one in found]}"
        some = await reader.fetch(count - len(found) if ack else count, 0.2)
        if ack:
            await reader.ack(some)
        found += some
    return found


def numbers(deliveries: Sequence[Delivery]) -> list[Any]:
    return [one.event.data["n"] if one.event else one.fault for one in deliveries]


class Handling:
    """Members of a group that handle what comes, each in a task: ``handled`` is (member, event) in order."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, CloudEvent]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, reader: Subscription, name: str, *, each_s: float = 0.0, most: int = 16) -> None:
        self.tasks.append(asyncio.create_task(self._run(reader, name, each_s, most)))

    async def _run(self, reader: Subscription, name: str, each_s: float, most: int) -> None:
        while True:
            some = await reader.fetch(most, 0.2)
            renewing = asyncio.create_task(self._renew(reader))
            by_place: dict[Any, list[Delivery]] = {}
            for delivery in some:
                by_place.setdefault(delivery.place, []).append(delivery)
            for deliveries in by_place.values():
                for delivery in deliveries:
                    assert delivery.event
                    if each_s:
                        await asyncio.sleep(each_s)
                    self.handled.append((name, delivery.event))
                await reader.ack(deliveries)
            renewing.cancel()
            # Not by suppressing what is raised here: that may be our own end.
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, reader: Subscription) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            assert await reader.extend() == set()

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + patient(seconds)
        while not condition():
            for task in self.tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, f"{len(self.handled)} handled"
            await asyncio.sleep(0.02)

    async def count(self, events: int) -> None:
        await self.until(lambda: len(self.handled) >= events)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def handling() -> AsyncIterator[Handling]:
    made = Handling()
    yield made
    await made.end()


def in_order_once(handled: Sequence[CloudEvent], sent: Sequence[CloudEvent]) -> None:
    """Each exactly once, and those of each key in the order in which they were sent."""
    for key in {event.partition_key for event in sent}:
        mine = [event.data["n"] for event in handled if event.partition_key == key]
        assert mine == [event.data["n"] for event in sent if event.partition_key == key], key


# -- publishing and reading ------------------------------------------------------------------------


async def test_an_event_arrives_whole(lane: Lane) -> None:
    sent = replace(lane.event(text="é ☃", deep={"list": [1, 2.5, None, True]}), extensions={"region": "nörd"})
    await send(lane.connect(), [sent])
    (got,) = await take(await lane.join(), 1)
    assert got.event and got.event == replace(sent, time=got.event.time)
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


async def test_only_matching_types_arrive_and_the_rest_counts_as_read(lane: Lane) -> None:
    bus = lane.connect()
    reader = await lane.join("g", "m", f"{lane.domain}.*.opened", f"{lane.domain}.system.#")
    await send(bus, [lane.event(kind, n=kind) for kind in ("account.opened", "account.closed", "system.is.up")])
    assert sorted(numbers(await take(reader, 2))) == ["account.opened", "system.is.up"]
    await nothing_is_left(lane, reader)


async def nothing_is_left(lane: Lane, reader: Subscription, group: str = "g") -> None:
    """The lag falls to zero while the member goes on reading."""
    bus, deadline = lane.connect(), time.monotonic() + patient(10)
    while any((lag := await bus.lag(lane.group(group))).values()):
        assert time.monotonic() < deadline, lag
        assert await reader.fetch(10, 0.05) == []


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
    deadline = time.monotonic() + patient(5)
    while sum((await bus.lag(lane.group("g"))).values()) != 30:
        assert time.monotonic() < deadline
    assert len([n for n in (await bus.lag(lane.group("g"))).values() if n]) in {1, 2, 3}
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
    seen = bad if isinstance(lane.broker, Redis) else replace(bad, event=None, raw=b"all of it", forged=True)
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


# -- leases ------------------------------------------------------------------------------------------


async def test_who_extends_keeps_what_it_has(lane: Lane) -> None:
    bus, slow = lane.connect(), await lane.join(member="slow")
    await send(bus, lane.events(3))
    held = await take(slow, 3, ack=False)
    other = await lane.join(member="other")
    until = time.monotonic() + 2.5 * LEASE_S
    while time.monotonic() < until:
        assert await slow.extend() == set()
        assert await other.fetch(10, LEASE_S / 4) == []
    await slow.ack(held)
    await send(bus, [lane.event(n=3, key="k0")])
    found: list[Delivery] = []
    async with asyncio.timeout(patient(10)):
        while not found:
            found = [one for reader in (slow, other) for one in await reader.fetch(10, 0.2)]
    assert numbers(found) == [3]


async def test_who_is_silent_loses_its_partitions_and_is_told(lane: Lane) -> None:
    bus = lane.connect()
    silent = await lane.join(member="silent", transport=bus)
    await send(bus, lane.events(3))
    held = await take(silent, 3, ack=False)
    heir = await lane.join(member="heir")
    again = await take(heir, 3, ack=False)
    assert numbers(again) == [0, 1, 2]
    assert await silent.extend() == {held[0].place}
    assert await silent.extend() == set(), "it is said once"
    # What it settles now is without effect, and counted.
    await silent.ack(held)
    assert bus.stats().late == 3
    await heir.ack(again)
    await nothing_is_left(lane, heir)


async def test_who_was_silent_may_come_back(lane: Lane) -> None:
    bus, silent = lane.connect(), await lane.join(member="silent")
    await send(bus, lane.events(3))
    await take(silent, 3, ack=False)
    heir = lane.connect()
    await take(await lane.join(member="heir", transport=heir), 3)
    await silent.extend()
    await heir.close()
    await send(bus, [lane.event(n=3, key="k0")])
    assert numbers(await take(silent, 1)) == [3]


async def test_who_leaves_hands_over_at_once(lane: Lane) -> None:
    bus, first = lane.connect(), await lane.join(member="first", lease_s=30.0)
    await send(bus, lane.events(3))
    await take(first, 3, ack=False)
    await first.close()
    began = time.monotonic()
    assert numbers(await take(await lane.join(member="second", lease_s=30.0), 3)) == [0, 1, 2]
    assert time.monotonic() - began < patient(10)


async def test_what_a_killed_member_had_goes_to_another_in_order(lane: Lane) -> None:
    await send(lane.connect(), lane.events(10))
    argv = [lane.broker.url, lane.pattern, lane.group("g"), "killed", "5", str(LEASE_S)]
    one = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bus_member", *argv, stdout=subprocess.PIPE)
    try:
        held = 0
        while held < 5:
            assert one.stdout
            held = int(await asyncio.wait_for(one.stdout.readline(), patient(30)))
    finally:
        one.kill()
        await one.wait()
    assert numbers(await take(await lane.join(member="heir"), 10, seconds=30)) == list(range(10))


async def test_a_slow_handler_handles_each_event_once(lane: Lane, handling: Handling) -> None:
    """50 ms × 100 events with a lease of 1 s, by two members."""
    bus, sent = lane.connect(), lane.events(100, keys=10)
    await send(bus, sent)
    handling.begin(await lane.join(member="first"), "first", each_s=0.05, most=50)
    handling.begin(await lane.join(member="second"), "second", each_s=0.05, most=50)
    await handling.count(100)
    async with asyncio.timeout(patient(15)):
        while any((await bus.lag(lane.group("g"))).values()):
            await handling.count(100)
    in_order_once([event for _, event in handling.handled], sent)


# -- large and odd -----------------------------------------------------------------------------------


async def test_a_large_event_is_carried_and_a_larger_one_refused_alone(lane: Lane) -> None:
    large = lane.event(text="x" * (MAX_DATA - 20))
    first, refused, last = await lane.connect().publish(
        [Outgoing(large), Outgoing(lane.event(text="x" * (MAX_DATA + 65536))), Outgoing(lane.event(n=2))]
    )
    assert first is last is None
    assert "bytes" in str(refused)
    got = await take(await lane.join(), 2)
    assert got[0].event and got[0].event.data == large.data
    assert numbers(got[1:]) == [2]


STRUCTURED = {"content-type": "application/cloudevents+json"}


async def test_odd_entries_come_as_what_they_are_and_block_nothing(lane: Lane) -> None:
    bus = lane.connect()
    reader = await lane.join(transport=bus)
    good = {"specversion": "1.0", "id": "1", "source": "s", "type": f"{lane.domain}.a.b"}
    whole = json.dumps(good | {"specversion": "0.3", "data": {}}).encode()
    odd = [
        Entry(b"not json", STRUCTURED),
        Entry(b"\xff\xfe\x00\x01", {}),
        Entry(b"", {}),
        Entry(whole, STRUCTURED),
        Entry(b'{"order": 7}', {"content-type": "application/json", "producer": "somebody else"}),
        Entry(b"{}", {f"x{n}": "1" for n in range(5000)}),
        Entry(b"{}", lane.broker.named(good | {"specversion": "0.3"})),
        Entry(b"{}", lane.broker.named(good | {"id": ""})),
        Entry(b"{no json", lane.broker.named(good)),
        Entry(b"[" * 100_000, lane.broker.named(good)),
    ]
    await asyncio.to_thread(lane.broker.put, lane.domain, odd)
    found: list[Delivery] = []
    async with asyncio.timeout(patient(20)):
        while len(found) < len(odd):
            for one in await reader.fetch(3, 0.2):
                assert one.event is None
                assert one.fault
                await reader.dead_letter(one, one.fault)
                found.append(one)
    assert [one.raw for one in found if one.raw.endswith(b"json")] == [b"not json", b"{no json"]
    assert bus.stats().malformed == len(odd)
    assert len(await asyncio.to_thread(lane.broker.dead, lane.group("g"))) == len(odd)
    await send(bus, [lane.event(n=1)])
    assert numbers(await take(reader, 1)) == [1]
    await nothing_is_left(lane, reader)


# -- the bindings, with somebody else's library on the other side --------------------------------------


async def test_others_read_what_we_write(lane: Lane) -> None:
    sent = replace(lane.event(text="é ☃"), extensions={"region": "nörd"})
    await send(lane.connect(), [sent])
    (seen,) = await asyncio.to_thread(lane.broker.seen, lane.domain)
    theirs = by_sdk(lane.broker, seen)
    assert (theirs.get_id(), theirs.get_type(), theirs.get_source()) == (sent.id, sent.type, sent.source)
    assert (theirs.get_data(), theirs.get_subject(), theirs.get_specversion()) == (sent.data, "s", "1.0")
    assert theirs.get_extension("partitionkey") == sent.partition_key
    assert theirs.get_extension("sequence") == str(sent.sequence)
    assert theirs.get_extension("region") == "nörd"
    assert theirs.get_time().timestamp() == pytest.approx(sent.time, abs=1e-5)


def by_sdk(broker: Broker, entry: Entry) -> Any:
    if broker.url.startswith("kafka"):
        headers = {name: value.encode() for name, value in entry.headers.items()}
        return sdk_kafka.from_kafka_event(sdk_kafka.KafkaMessage(headers, entry.key, entry.body))
    if broker.url.startswith("amqp"):
        return sdk_rabbitmq.from_rabbitmq_event(
            sdk_rabbitmq.RabbitMQMessage(dict(entry.headers), entry.headers["content-type"], entry.body)
        )
    return JSONFormat().read(None, entry.body)


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_we_read_what_others_write(lane: Lane, mode: str) -> None:
    attributes = {"type": f"{lane.domain}.a.b", "source": "/theirs", "id": "x", "region": "nörd", "partitionkey": "p"}
    theirs = SdkEvent(attributes=attributes | {"datacontenttype": "application/json"}, data={"n": 1, "t": "é"})
    if lane.broker.url.startswith("kafka"):
        message: Any = getattr(sdk_kafka, f"to_{mode}_event")(theirs)
        headers = {name: value.decode() for name, value in message.headers.items()}
        entry = Entry(message.value, headers, str(message.key))
    elif lane.broker.url.startswith("amqp"):
        message = getattr(sdk_rabbitmq, f"to_{mode}_event")(theirs)
        entry = Entry(message.body, message.headers | {"content-type": message.content_type})
    else:
        entry = Entry(JSONFormat().write(theirs), {"t": theirs.get_type()})
    await asyncio.to_thread(lane.broker.put, lane.domain, [entry])
    (got,) = await take(await lane.join(), 1)
    assert got.event, got.fault
    assert (got.event.id, got.event.source, got.event.partition_key) == ("x", "/theirs", "p")
    assert (got.event.data, got.event.extensions) == ({"n": 1, "t": "é"}, {"region": "nörd"})


# -- the broker away ---------------------------------------------------------------------------------


async def test_a_killed_broker_keeps_what_it_confirmed_and_readers_go_on_by_themselves(lane: Lane) -> None:
    bus, reader = lane.connect(), await lane.join(lease_s=30.0)
    await send(bus, lane.events(5))
    held = await take(reader, 5, ack=False)
    more = [lane.event(n=n, key="k0") for n in range(5, 205)]
    await send(bus, more)
    sent = {one.event.id for one in held if one.event} | {event.id for event in more}
    await asyncio.to_thread(lane.broker.ripen, lane.group("g"))
    await asyncio.to_thread(lane.broker.kill)
    try:
        began = time.monotonic()
        with pytest.raises(TransportAway):
            await bus.publish([Outgoing(lane.event(n=-1, key="nobody knows of it"))])
        with pytest.raises(TransportAway):
            await reader.ack(held)
        with pytest.raises(TransportAway):
            await bus.lag(lane.group("g"))
        assert time.monotonic() - began < 3 * patient(ANSWER_S + 1)
        assert await reader.fetch(10, 0.5) == []
        # One that begins meanwhile waits for it too.
        late = await lane.join("late")
        assert await late.fetch(10, 0.1) == []
        reading = asyncio.create_task(reader.fetch(400, 0.5))
    finally:
        await asyncio.to_thread(lane.broker.start)
    # The first five may be ours still, or come again.
    got = {one.event.id: one.event.data["n"] for one in held if one.event}
    async with asyncio.timeout(patient(40)):
        while not got.keys() >= sent:
            found = await reading
            for one in found:
                assert one.event
                got.setdefault(one.event.id, one.event.data["n"])
            with suppress(TransportAway):
                await reader.ack(found)
                await reader.extend()
            reading = asyncio.create_task(reader.fetch(400, 0.5))
    await reading
    assert [n for n in got.values() if n >= 0] == list(range(205))
    await send(bus, [lane.event(n=205)])
    assert 205 in numbers(await take(late, 206))
