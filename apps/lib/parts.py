"""Keep the parts of a process going: one that fails is said aloud, counted and begun anew; the others never notice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from apps.lib.clock import monotonic

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a part begins anew: the pause doubles with every failure, up to the longest."""
SETTLED = 30.0
"""A part that ran so long has recovered: its next pause is the first again."""


async def keep(name: str, work: Callable[[], Awaitable[None]], failed: Callable[[str], None]) -> None:
    """Run ``work`` until cancelled. It has no end of its own, so an end is a failure too; ``failed`` hears of each."""
    pause = FIRST_PAUSE
    while True:
        began = monotonic()
        part = asyncio.ensure_future(work())
        try:
            await asyncio.wait([part])
        finally:
            if not part.done():
                part.cancel()
                await asyncio.wait([part])
        error = None if part.cancelled() else part.exception()
        log.critical("Part %s failed and begins anew in %.1f s", name, pause, exc_info=error)
        failed(name)
        if monotonic() - began > SETTLED:
            pause = FIRST_PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
