"""What a reader of the event log may trust, on either database: every event once, in order, without a gap."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, OperationalError, connection, transaction

from apps.events import queries, sequencer
from apps.events.actions import publish
from apps.events.models import Event
from tests.waiting import patient, until

pytestmark = pytest.mark.django_db(transaction=True)

TYPE = "test.thing.done"
WRITERS, EACH = 8, 40
T = TypeVar("T")


def test_a_reader_that_follows_positions_misses_nothing_while_eight_write_and_two_number() -> None:
    done = threading.Event()

    def write(writer: int) -> list[str]:
        chance = random.Random(writer)
        return [name for n in range(EACH) for name in _write(chance, f"{writer}/{n}")]

    def give() -> None:
        while not done.is_set() or sequencer.unnumbered().exists():
            sequencer.number(random.randrange(1, 20))

    def follow() -> list[Event]:
        seen: list[Event] = []
        while True:
            over = done.is_set() and not sequencer.unnumbered().exists()
            more = queries.following(seen[-1].position or 0 if seen else 0)
            seen += more
            if over and not more:
                return seen

    with ThreadPoolExecutor(WRITERS + 3) as pool:
        giving = [pool.submit(_alone(give)) for _ in range(2)]
        reading = pool.submit(_alone(follow))
        writing = [pool.submit(_alone(lambda writer=writer: write(writer))) for writer in range(WRITERS)]
        try:
            written = [name for each in writing for name in each.result()]
        finally:
            done.set()
        seen = reading.result()
        for each in giving:
            each.result()

    assert sorted(event.data["name"] for event in seen) == sorted(written)
    assert [event.position for event in seen] == list(range(1, len(written) + 1)), "no gap, and none out of turn"
    streams = defaultdict(list)
    for event in seen:
        streams[event.stream].append(event.version)
    assert len(streams) == 20
    for versions in streams.values():
        assert versions == list(range(1, len(versions) + 1))


def _write(chance: random.Random, name: str) -> list[str]:
    """One transaction of a random length, which rolls back now and then; the events that it left."""
    names = [f"{name}/{n}" for n in range(chance.randrange(1, 4))]
    # In one order of streams: transactions that take the same streams in another order wait for each other.
    streams = sorted(chance.sample(range(20), len(names)))
    try:
        with transaction.atomic():
            for each, stream in zip(names, streams, strict=True):
                publish(TYPE, {"name": each}, stream=f"s{stream:02}")
                time.sleep(chance.random() * 0.003)
            if chance.random() < 0.1:
                raise LookupError
    except LookupError:
        return []
    except OperationalError:
        # SQLite lets writers wait in no order, and one of eight may be told after 5 s that it was never its turn.
        assert connection.vendor == "sqlite"
        return _write(chance, name)
    return names


def _alone(work: Callable[[], T]) -> Callable[[], T]:
    """``work`` in a thread, whose connection nobody else would close."""

    def run() -> T:
        try:
            return work()
        finally:
            connection.close()

    return run


def test_numbering_goes_on_from_where_it_was_when_retention_took_everything() -> None:
    _publish(3)
    Event.objects.all().prune()
    assert [event.position for event in _publish(2)] == [4, 5]


def test_retention_takes_nothing_that_has_no_position_yet() -> None:
    event = publish(TYPE, {})
    assert Event.objects.all().prune() == (1 if event.position else 0)
    sequencer.number()
    assert Event.objects.all().prune() == (0 if event.position else 1)


if connection.vendor == "postgresql":

    def test_one_numbers_at_a_time_and_whoever_hangs_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sequencer, "LEASE_S", 1.0)
        publish(TYPE, {})
        held, over = threading.Event(), threading.Event()

        def hang() -> None:
            with sequencer.lease() as head:
                assert head is not None
                held.set()
                over.wait(60)

        with ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(_alone(hang))
            try:
                assert held.wait(20)
                assert sequencer.number() == 0, "somebody else is at it"
                assert until(sequencer.number, 10) == 1
            finally:
                over.set()
            assert isinstance(hanging.exception(), DatabaseError), "it can't commit what it thought was its own"


async def test_the_relay_process_numbers_what_is_published_within_a_moment(redis_url: str, settings: object) -> None:
    settings.REDIS_URL = redis_url  # type: ignore[attr-defined]
    running = sequencer.Sequencer(redis_url)
    task = asyncio.create_task(running.run())
    try:
        await sync_to_async(publish)(TYPE, {})
        async with asyncio.timeout(patient(5)):
            while not await sync_to_async(queries.following)(0):  # noqa: ASYNC110 - a row tells nobody
                await asyncio.sleep(0.01)
    finally:
        running.stop()
        await task


def _publish(count: int) -> list[Event]:
    """Publish so many, one by one, and number them; as they are stored then."""
    chosen = [publish(TYPE, {}).pk for _ in range(count)]
    sequencer.number()
    return list(Event.objects.filter(pk__in=chosen))
