"""The one door between synchronous and asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

P = ParamSpec("P")
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end from synchronous code that has no loop (a Celery task, a command)."""
    return asyncio.run(work)


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking ``call`` (the ORM above all) in asgiref's thread, where Django's connections live."""
    return await sync_to_async(call, thread_sensitive=True)(*args, **kwargs)


async def heard(bell: asyncio.Event, seconds: float) -> bool:
    """Wait for the bell, at most so long; whether it rang."""
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        return False
    return True


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel until they have ended, however: before Python 3.12 a cancellation that meets the end of a write to Redis
    is lost (python/cpython issue 86296)."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.2)
