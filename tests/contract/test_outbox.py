"""What an outbox's store promises (services/kit/events/outbox.py), asked of Django's tables and of a service's own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from sqlalchemy import text

from apps.events import outbox as tables
from apps.events.actions import publish
from apps.events.relay import DjangoOutbox
from services.kit.events.cloudevent import EventError
from services.kit.events.outbox import OutboxStore, PutOff, Row, Settlement, judge
from services.kit.events.pump import Pump
from services.kit.events.signing import CONTROL
from services.kit.events.transport.base import Rejected
from services.kit.events.transport.connect import connect
from services.kit.outbox import LEASE_S, OUTBOX, Outbox, SqlOutbox
from services.kit.store import Store
from tests.signed import KEYS
from tests.unit.kit.events.memory import Memory
from tests.waiting import patient

pytestmark = pytest.mark.django_db(transaction=True)

TYPE = "test.thing.done"
LONGEST_LEASE_S = max(LEASE_S, tables.LEASE_S)


class Side:
    """One kind of outbox: how it is written, and its stores by holder."""

    def __init__(self, write: Callable[[str, int], Any], holder: Callable[[str], OutboxStore]) -> None:
        self.write, self.holder = write, holder

    async def add(self, *names: str) -> None:
        """Events in order: the name's first letter is the key."""
        for name in names:
            await self.write(name[0], int(name[1:]))


def names(rows: Sequence[Row]) -> list[str]:
    return [f"{row.event.partition_key}{row.event.data['n']}" for row in rows]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}", OUTBOX)
    await store.start()
    yield store
    await store.stop()


@pytest.fixture(params=["django", "service"])
def side(request: pytest.FixtureRequest, service: Store) -> Side:
    if request.param == "django":

        async def write(key: str, number: int) -> None:
            await sync_to_async(publish)(TYPE, {"n": number}, stream=key)

        return Side(write, lambda _: DjangoOutbox())
    recorder = Outbox(service, Memory(), "tests", keys=KEYS)

    async def record(key: str, number: int) -> None:
        await service.write(lambda c: recorder.record(c, TYPE, {"n": number}, partition_key=key))

    return Side(record, lambda holder: SqlOutbox(service, holder))


def later(seconds: float = 1.0) -> float:
    return time.time() + seconds


async def test_rows_are_claimed_in_order_and_once_sent_never_again(side: Side) -> None:
    store = side.holder("one")
    assert await store.claim(later(), 9) == []
    await side.add("a1", "b1", "a2")
    rows = await store.claim(later(), 9)
    assert names(rows) == ["a1", "b1", "a2"] and [row.event.sequence for row in rows] == [1, 1, 2]
    assert (await store.backlog()).waiting == 3
    await store.settle(Settlement([row.position for row in rows], []), later())
    assert await store.claim(later(), 9) == [] and (await store.backlog()).oldest is None


async def test_the_next_are_claimed_when_those_before_them_are_settled(side: Side) -> None:
    one, two = side.holder("one"), side.holder("two")
    await side.add("a1", "b1", "a2", "b2")
    first = await one.claim(later(), 2)
    settled = Settlement([first[0].position], [PutOff(first[1].position, 1, later(60), "no")])
    rows = await one.claim(later(), 9, settled)
    assert names(rows) == ["a2"] and (await one.backlog()).waiting == 3
    assert await two.claim(later(), 9) == []
    assert await one.claim(later(), 9, Settlement([rows[0].position], [])) == []
    assert names(await two.claim(later(61), 9)) == ["b1", "b2"], "and who found nothing more holds nothing"


async def test_the_limit_bounds_a_batch(side: Side) -> None:
    await side.add("a1", "a2", "a3")
    assert names(await side.holder("one").claim(later(), 2)) == ["a1", "a2"]


async def test_what_is_put_off_holds_back_its_key_and_no_other(side: Side) -> None:
    store = side.holder("one")
    await side.add("a1", "b1")
    first, other = await store.claim(later(), 9)
    put_off = PutOff(first.position, first.tries + 1, later(60), "too odd")
    await store.settle(Settlement([other.position], [put_off]), later())
    await side.add("a2", "b2")
    rows = await store.claim(later(), 9)
    assert names(rows) == ["b2"]
    await store.settle(Settlement([], []), later())
    again = await store.claim(later(61), 9)
    assert names(again) == ["a1", "a2", "b2"] and [row.tries for row in again] == [1, 0, 0]


async def test_what_somebody_has_in_hand_is_nobody_elses_until_it_is_given_back_or_its_lease_lapses(side: Side) -> None:
    one, two = side.holder("one"), side.holder("two")
    await side.add("a1")
    assert names(await one.claim(later(), 9)) == ["a1"]
    await side.add("a2")
    assert await two.claim(later(), 9) == []
    await one.release()
    assert names(await two.claim(later(), 9)) == ["a1", "a2"]
    rows = await one.claim(later(LONGEST_LEASE_S + 2), 9)
    assert names(rows) == ["a1", "a2"]
    await one.settle(Settlement([row.position for row in rows], []), later())
    # The one that was overtaken does not unsend.
    await two.settle(Settlement([], [PutOff(rows[0].position, 1, later(), "late")]), later())
    assert (await one.backlog()).waiting == 0


async def test_sent_rows_stay_until_they_are_forgotten_and_waiting_ones_for_ever(side: Side) -> None:
    store = side.holder("one")
    await side.add("a1", "b1", "c1")
    rows = await store.claim(later(), 9)
    await store.settle(Settlement([row.position for row in rows[:2]], []), time.time())
    assert await store.forget(time.time() - 5, 9) == 0
    assert await store.forget(time.time() + 5, 1) == 1
    assert await store.forget(time.time() + 5, 9) == 1
    assert await store.forget(time.time() + 5, 9) == 0
    assert (await store.backlog()).waiting == 1


def test_a_batch_is_judged_by_the_brokers_answers() -> None:
    rows = [Row(1, None), Row(2, None, tries=3)]  # type: ignore[arg-type]
    found = judge(rows, [None, Rejected("x" * 900)], 100.0, lambda: 0.5)
    assert found.sent == [1]
    assert found.put_off == [PutOff(2, 4, 104.0, "x" * 500)]


# -- a service's own -----------------------------------------------------------------------------


async def test_an_event_leaves_if_and_only_if_its_transaction_commits(service: Store, redis_url: str) -> None:
    transport = connect(redis_url)
    outbox = Outbox(service, transport, "tests", keys=KEYS)

    def undone(connection: Any) -> None:
        outbox.record(connection, TYPE, {"number": -1})
        raise KeyError("changed my mind")

    with pytest.raises(KeyError):
        await service.write(undone)
    for number in range(300):
        await service.write(lambda c, n=number: outbox.record(c, TYPE, {"number": n}))
    with pytest.raises(EventError, match="dots"):
        await service.write(lambda c: outbox.record(c, "Recorded", {}))
    await outbox.start()
    reading = await transport.subscribe(["test.#"], "g", "m")
    found = []
    while len(found) < 300:
        some = await reading.fetch(500, patient(10))
        assert some
        await reading.ack(some)
        found += [one.event for one in some if one.event]
    await outbox.probe()
    await outbox.stop()
    assert [event.data["number"] for event in found] == [event.sequence - 1 for event in found] == [*range(300)]
    assert {event.partition_key for event in found} == {"tests"}
    # They stay, as the publisher's own log.
    query = text("SELECT COUNT(*) FROM outbox WHERE sent_at IS NOT NULL")
    assert await service.read(lambda c: c.execute(query).scalar_one()) == 300
    await transport.close()


async def pumped(store: Store, speaker: str) -> tuple[Memory, Pump]:
    """One turn."""
    bus = Memory()
    pump = Pump(SqlOutbox(store, "one"), bus, KEYS, speaker)
    pump.stop()
    await pump.run()
    return bus, pump


async def test_events_leave_signed_and_wait_while_there_is_no_key(service: Store) -> None:
    outbox = Outbox(service, Memory(), "client/ann", keys=KEYS)
    await service.write(lambda c: outbox.record(c, TYPE, {"n": 1}))
    bus, pump = await pumped(service, "client/ann")
    assert bus.rows == {} and pump.oldest is not None
    bus, _ = await pumped(service, CONTROL)
    ((entry,),) = bus.rows.values()
    assert entry.event is not None and entry.event.source == "client/ann" and KEYS.refusal(entry.event) == ""


async def test_what_every_reader_would_call_forged_stays_and_holds_up_nothing(service: Store) -> None:
    """Mission Control was asked to publish as somebody who signs."""
    for source in ("tests", "client/ann"):
        outbox = Outbox(service, Memory(), source, keys=KEYS)
        await service.write(lambda c, outbox=outbox: outbox.record(c, TYPE, {"n": 1}))
    bus, _ = await pumped(service, CONTROL)
    ((entry,),) = bus.rows.values()
    assert entry.event is not None and entry.event.source == "client/ann"
    query = text("SELECT reason FROM outbox WHERE sent_at IS NULL")
    reason = await service.read(lambda c: c.execute(query).scalar_one())
    assert reason == "mission-control may not speak for tests: readers would take it for forged."
