"""Who holds what of a broker, and until when: leases, members that die, a broker that is killed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from services.kit.events.transport.base import (
    ANSWER_S,
    Delivery,
    Outgoing,
    TransportAway,
)
from tests.contract.bus import LEASE_S, Handling, Lane, in_order_once, nothing_is_left, numbers, send, take
from tests.waiting import patient


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


async def test_a_killed_broker_keeps_what_it_confirmed_and_readers_go_on_by_themselves(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
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
    gc.collect()
    assert not [one for one in caplog.records if one.name == "asyncio"], "whatever failed was somebody's to tell"
