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
