"""What a reader of the event log may trust, on either database: every event once, in order, without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, OperationalError, connection, transaction

from apps.events import queries, sequencer
from apps.events.actions import BoundaryConflict, Conflict, VersionConflict, publish
from apps.events.boundary import Match
from apps.events.deciding import decide_on
from apps.events.models import Event, OutboxMessage
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
        cursor = 0
        while True:
            over = done.is_set() and not sequencer.unnumbered().exists()
            reading = queries.following(cursor, types=["#.done", "test.*.never"])
            cursor = reading.position
            seen += reading.events
            if over and not reading.events:
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
                # Most types are new, so that a reader of a pattern meets types that it has not heard of.
                publish(f"test.t{each.replace('/', '-')}.done", {"name": each}, stream=f"s{stream:02}")
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


def test_of_eight_who_expect_the_same_version_one_is_stored() -> None:
    for version in range(10):
        outcomes = _at_once(lambda _, version=version: publish(TYPE, {}, stream="s", expected_version=version))
        assert [type(one) for one in outcomes if not isinstance(one, Event)] == [VersionConflict] * (WRITERS - 1)
    assert [event.version for event in queries.history("s")] == list(range(1, 11))


def test_of_eight_with_the_same_boundary_one_is_stored() -> None:
    for place in range(10):
        _, boundary = decide_on(Match(("seat.#",), tags=("show:1",)))
        outcomes = _at_once(
            lambda n, boundary=boundary: publish(
                "seat.place.taken", {}, stream=f"visitor-{n}", tags=["show:1"], boundary=boundary
            )
        )
        assert sum(isinstance(one, Event) for one in outcomes) == 1, outcomes
        assert Event.objects.count() == place + 1


def test_no_event_within_a_boundary_stands_before_what_was_appended_under_it() -> None:
    """Also none of those who publish without looking, whose transaction began first and ends last."""
    appended: list[tuple[int, int]] = []
    deadline = time.monotonic() + patient(30)

    def work(n: int) -> None:
        chance = random.Random(n)
        for turn in itertools.count():
            # Those who look may lose every race while the others are about: one has to win in the end.
            if turn >= 25 and (n or appended or time.monotonic() > deadline):
                return
            if n < WRITERS // 2:
                _, boundary = decide_on(Match(("seat.#",)))
                with contextlib.suppress(BoundaryConflict):
                    event = publish("seat.place.taken", {}, stream=f"v-{n}", boundary=boundary)
                    appended.append((boundary.after, event.pk))
            else:
                with contextlib.suppress(OperationalError), transaction.atomic():
                    publish("seat.place.held", {}, stream=f"v-{n}")
                    time.sleep(chance.random() * 0.005)
                time.sleep(chance.random() * 0.01)

    assert _at_once(work) == [None] * WRITERS
    while sequencer.number():
        pass
    places = dict(Event.objects.values_list("pk", "position"))
    assert appended
    for after, pk in appended:
        assert places[pk] == after + 1, "every event here is within the boundary"


def test_eight_who_publish_under_one_key_get_the_same_events() -> None:
    outcomes = _at_once(lambda _: publish(TYPE, {"n": 1}, idempotency_key="k"))
    assert len({one.pk for one in outcomes}) == 1
    assert Event.objects.count() == OutboxMessage.objects.count() == 1


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
            while not (await sync_to_async(queries.following)(0)).events:  # noqa: ASYNC110 - a row tells nobody
                await asyncio.sleep(0.01)
    finally:
        running.stop()
        await task


def _at_once(work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` answers, or raises as a conflict, in as many threads as there are writers, all at once."""
    gate = threading.Barrier(WRITERS)

    def run(n: int) -> Any:
        gate.wait(20)
        try:
            return work(n)
        except Conflict as error:
            return error

    with ThreadPoolExecutor(WRITERS) as pool:
        return [each.result() for each in [pool.submit(_alone(lambda n=n: run(n))) for n in range(WRITERS)]]


def _publish(count: int) -> list[Event]:
    """Publish so many, one by one, and number them; as they are stored then."""
    chosen = [publish(TYPE, {}).pk for _ in range(count)]
    sequencer.number()
    return list(Event.objects.filter(pk__in=chosen))
