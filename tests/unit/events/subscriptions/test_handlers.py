"""Internal handlers: effects once, order per key, and nothing stands still for one odd event."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from apps.events.letters.models import DeadLetter
from apps.events.models import Event, Handled, Subscription
from apps.events.subscriptions import handlers, store
from apps.events.subscriptions.handlers import Handler
from apps.events.subscriptions.store import Lost, Tail
from apps.events.tasks import prune
from services.kit.events.retry import Permanent
from tests.unit.events.subscriptions.running import emit, emit_many, engine, eventually, positions

pytestmark = pytest.mark.django_db(transaction=True)

in_db = sync_to_async


@pytest.fixture(autouse=True)
def alone(settings: Any, redis_url: str) -> Iterator[None]:
    settings.REDIS_URL = redis_url
    kept = dict(handlers.REGISTERED)
    handlers.REGISTERED.clear()
    yield
    handlers.REGISTERED.clear()
    handlers.REGISTERED.update(kept)


def handler(handle: Callable[[Event], None]) -> Handler:
    return handlers.register(Handler("inner", ("test.#",), handle))


def row() -> Subscription:
    return Subscription.objects.get(name="inner")


def claimed() -> Subscription:
    handlers.ensure()
    [found] = store.claim("me", 1.0e9)
    return found


async def test_each_event_is_handled_once_from_the_beginning_on(redis_url: str) -> None:
    seen: list[int] = []
    handler(lambda event: seen.append(event.data["n"]))
    await in_db(emit_many)(30, 3)
    async with engine(redis_url, 2):
        await eventually(lambda: len(seen) >= 30)
        await in_db(emit)(30)
        await eventually(lambda: len(seen) >= 31)
        await eventually(lambda: row().position == 31, rows=True)
    assert seen == list(range(31))
    assert await in_db(Handled.objects.count)() == 31


def test_a_handler_that_fails_leaves_nothing_of_its_effects_and_parks_its_key() -> None:
    def handle(event: Event) -> None:
        Subscription.objects.filter(name="inner").update(reason=f"saw {event.data['n']}")
        if event.data["n"] == 1:
            raise ValueError("odd")

    one = handler(handle)
    for n, key in enumerate("aabab"):
        emit(n, key)
    positions()
    found = handlers.step(claimed(), "me", one, Tail(), 0)
    assert (found.position, found.delivered, found.failed) == (5, 3, 1)
    states = dict(DeadLetter.objects.order_by("place").values_list("place", "state"))
    assert states == {2: "retrying", 4: "parked"}
    letter = DeadLetter.objects.get(place=2)
    assert (letter.reason, letter.error) == ("handler", "ValueError: odd") and "handle" in letter.stack
    assert row().reason == "saw 4" and row().position == 5
    assert Handled.objects.count() == 3


def test_what_can_never_be_handled_is_not_tried_again() -> None:
    def handle(event: Event) -> None:
        raise Permanent("not for me")

    one = handler(handle)
    emit(0)
    positions()
    handlers.step(claimed(), "me", one, Tail(), 0)
    assert DeadLetter.objects.get().state == "failed"


def test_a_database_that_is_away_is_nobodys_failure() -> None:
    seen: list[int] = []

    def handle(event: Event) -> None:
        seen.append(event.data["n"])
        if len(seen) == 2:
            raise busy()

    one = handler(handle)
    emit_many(3)
    positions()
    held = claimed()
    with pytest.raises(OperationalError):
        handlers.step(held, "me", one, Tail(), 0)
    assert not DeadLetter.objects.exists() and row().position == 1
    handlers.step(held, "me", one, Tail(), 0)
    assert seen == [0, 1, 1, 2] and row().position == 3, "what was handled is not handled again"


def busy() -> OperationalError:
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error = OperationalError("database is locked")
    error.__cause__ = cause
    return error


def test_without_the_lease_nothing_is_handled() -> None:
    seen: list[int] = []
    one = handler(lambda event: seen.append(event.data["n"]))
    emit(0)
    positions()
    held = claimed()
    Subscription.objects.update(holder="somebody else")
    with pytest.raises(Lost):
        handlers.step(held, "me", one, Tail(), 0)
    assert seen == [] and not Handled.objects.exists()


def test_what_was_handled_is_forgotten_with_the_events(settings: Any) -> None:
    row = Subscription.objects.create(name="inner", kind="internal")
    now = datetime.now(UTC)
    longest = settings.EVENT_DAYS + settings.UNREAD_DAYS
    for n, days in enumerate((longest + 1, longest - 1)):
        Handled.objects.create(subscription=row, source="s", event_id=str(n), at=now - timedelta(days=days))
    prune()
    assert list(Handled.objects.values_list("event_id", flat=True)) == ["1"]
