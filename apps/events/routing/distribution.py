"""A part of the relay: brings Redis up to date after it was away, was emptied, or was written to by a stranger."""

from __future__ import annotations

import asyncio
import logging

from django.db import DatabaseError, close_old_connections

from apps.events.routing import actions
from apps.lib.aio import in_thread

log = logging.getLogger(__name__)

LOOK_S = 15.0


class Distribution:
    """``run`` returns after ``stop``."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End."""
        self._stopping.set()

    async def run(self) -> None:
        """Look now, and every now and then."""
        while not self._stopping.is_set():
            try:
                await in_thread(_deliver)
            except DatabaseError as error:
                log.warning("The rules of routing can't be read: %s", error)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue


def _deliver() -> None:
    close_old_connections()
    actions.deliver()
