"""Writes gathered over one turn of the event loop and sent together at its end.

A send that wakes a sleeping receiver costs several times one that finds it awake. Between sends that are a
request's work apart the receiver falls asleep again; back to back they wake it once.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Writes:
    """What one worker will send at the end of this turn."""

    __slots__ = ("_loop", "_pending", "turn")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: list[tuple[Any, bytes]] = []
        self.turn = 0
        """Counts on with every flush: what was added in this one has not been sent."""

    def add(self, transport: Any, data: bytes) -> None:
        """Send ``data`` this turn, after what was added before."""
        pending = self._pending
        if not pending:
            self._loop.call_soon(self.flush)
        pending.append((transport, data))

    def withdraw(self, transport: Any) -> list[bytes]:
        """Don't send what waits for ``transport``; what that was."""
        pending = self._pending
        taken = [data for owner, data in pending if owner is transport]
        if taken:
            pending[:] = [each for each in pending if each[0] is not transport]
        return taken

    def flush(self) -> None:
        """Send now: before closing a transport that may have data here."""
        pending, self._pending = self._pending, []
        self.turn += 1
        for transport, data in pending:
            if not transport.is_closing():
                transport.write(data)
