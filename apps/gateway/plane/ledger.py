"""Delivers the edge's counts to the collector, each once.

A count is handed over in a body that never changes, and the next body waits until that one is known to be
stored: the collector knows a body again that it has stored already. While it is away, bodies of ten
seconds each wait; when there are too many, the newest one goes on counting instead, so that a long absence costs the
exact time of a count and never the count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from time import time_ns

from apps.gateway.core.edge import Edge, Encoder
from apps.gateway.core.trace import Value
from apps.gateway.plane.fetch import Endpoint, FetchError
from apps.lib.clock import monotonic

SECONDS = 2.0
"""Between two bodies while requests come."""
WAIT_SECONDS = 10.0
"""Between two while earlier ones wait: the grain of the rollup that they end in."""
MOST_WAITING = 150
MOST_BYTES = 4 * 1024 * 1024
SEND_SECONDS = 5.0


class Ledger:
    """One worker's counts on their way."""

    def __init__(self, endpoint: Endpoint, headers: bytes, resource: Mapping[str, Value], scope: str) -> None:
        self.edge = Edge()
        self.refused = 0
        """Requests whose counts the collector would not have."""
        self._endpoint = endpoint
        self._headers = headers
        self._encoder = Encoder(resource, scope)
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._taken_at = monotonic()
        self._taken_ns = time_ns()

    async def send(self, *, beat: bool = False) -> str:
        """Hand over what is due; why it could not be, or nothing.

        ``beat``: also when no requests came, for readers tell "no traffic" from "no telemetry" by it.
        """
        if self._due(monotonic() - self._taken_at, beat):
            self._take()
        return await self._deliver()

    async def close(self) -> str:
        """Hand over the last counts; why they could not be, or nothing."""
        if self.edge:
            self._take()
        return await self._deliver()

    def _due(self, passed: float, beat: bool) -> bool:
        if self._waiting:
            room = len(self._waiting) < MOST_WAITING and self._waiting_bytes < MOST_BYTES
            return passed >= WAIT_SECONDS and room and bool(self.edge)
        return passed >= SECONDS if self.edge else beat

    def _take(self) -> None:
        now_ns = time_ns()
        tallies = self.edge.take()
        body = self._encoder.encode(tallies, self._taken_ns, now_ns)
        self._waiting.append((body, sum(tally.count for tally in tallies.values())))
        self._waiting_bytes += len(body)
        self._taken_at, self._taken_ns = monotonic(), now_ns

    async def _deliver(self) -> str:
        while self._waiting:
            body, requests = self._waiting[0]
            try:
                status, _ = await self._endpoint.call("POST", self._headers, body, seconds=SEND_SECONDS)
            except FetchError as error:
                return str(error)
            if status == 429 or status >= 500:
                return f"it answered {status}"
            if status >= 300:
                self.refused += requests
            self._waiting.popleft()
            self._waiting_bytes -= len(body)
        return ""
