"""The engine between a real database, a real Redis and an endpoint in another process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings

from apps.events.actions import publish
from apps.events.models import Event, Subscription
from apps.events.sequencer import Sequencer, number
from apps.events.subscriptions import actions
from apps.events.subscriptions.engine import Engine
from tests.waiting import patient

TYPE = "test.thing.done"


@contextlib.asynccontextmanager
async def engine(url: str, count: int = 1) -> AsyncIterator[list[Engine]]:
    """``count`` engines, one sequencer that rings the first."""
    engines = [Engine(url, settings.ADDRESS_GUARD, "test", "mission-control") for _ in range(count)]
    sequencer = Sequencer(url, then=engines[0].ring)
    tasks = [asyncio.create_task(one.run()) for one in (*engines, sequencer)]
    try:
        yield engines
    finally:
        for one in (*engines, sequencer):
            one.stop()
        async with asyncio.timeout(patient(20)):
            await asyncio.gather(*tasks)


def hook(url: str, **changes: Any) -> Subscription:
    fields = {"name": "hook", "patterns": ["test.#"], "url": url, "handshake": False} | changes
    return actions.create(fields, fields.pop("start", "now"))[0]


def emit(n: int, key: str = "k", **data: Any) -> Event:
    return publish(TYPE, {"n": n, **data}, stream=key)


def emit_many(count: int, keys: int = 1) -> None:
    for n in range(count):
        emit(n, f"k{n % keys}")


def positions() -> None:
    while number():
        pass


async def eventually(condition: Callable[[], Any], seconds: float = 10.0, *, rows: bool = False) -> Any:
    """The first truthy answer; ``rows`` when it asks the database."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        found = await sync_to_async(condition)() if rows else condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in time; last: {found!r}"
        await asyncio.sleep(0.02)
