"""One worker of the data plane, put together: its parts, their start, their end and the sweep of deadlines.

Everything behind it may be away: it starts from the last good revision on disk, serves without Redis,
and reports when a collector listens again. A part that fails is begun anew; its worker serves on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from apps.gateway.core import patience
from apps.gateway.plane import sweep
from apps.gateway.plane.breakers import Breakers
from apps.gateway.plane.client_http1 import ClientConnection
from apps.gateway.plane.health import Verdicts
from apps.gateway.plane.listener import Listener
from apps.gateway.plane.report import Reporter
from apps.gateway.plane.snapshot import Snapshots
from apps.gateway.plane.table import Builder
from apps.gateway.plane.worker import Settings, Worker
from apps.lib import wire
from apps.lib.aio import end
from apps.lib.clock import monotonic
from apps.lib.parts import keep

SWEEP_SECONDS = 0.05
"""How often deadlines are looked at while a request is in flight; a deadline is at most this much late."""

QUIET_SECONDS = 1.0
"""How long idle connections are kept while draining."""

DRAIN_SECONDS = 7.0
"""How long requests in flight may finish after the worker was told to stop."""


class Gateway:
    """A worker and its parts."""

    def __init__(self, settings: Settings) -> None:
        worker = self.worker = Worker(settings)
        self.breakers = Breakers(worker)
        self.verdicts = Verdicts(worker)
        self.report = Reporter(worker)
        builder = Builder(
            settings.pepper,
            settings.fleet_token,
            worker.jwks,
            worker.limiter,
            self.breakers,
            worker.writes,
            settings.guard,
        )
        self.snapshots = Snapshots(worker, builder, self.verdicts, self.report)
        self.listener = Listener(
            worker,
            {
                wire.CONFIG_CHANNEL: self.snapshots.on_published,
                wire.HEALTH_CHANNEL: self.verdicts.on_verdict,
                wire.BREAKER_OPENED: self.breakers.on_opened,
            },
            (self.snapshots.refresh, self.verdicts.refresh),
        )

    async def serve(self, listener: socket.socket, stop: asyncio.Event, serving: Callable[[], object]) -> None:
        """Accept clients on ``listener``, saying so, until ``stop``; then drain."""
        worker = self.worker
        loop = asyncio.get_running_loop()
        self.snapshots.load_disk()
        parts = {
            "listener": self.listener.run,
            "snapshots": self.snapshots.run,
            "breakers": self.breakers.run,
            "jwks": worker.jwks.run,
            "limiter": worker.limiter.run,
            "report": self.report.run,
            "sweep": self._sweep,
        }
        tasks = [loop.create_task(keep(name, work, self._restarted), name=name) for name, work in parts.items()]
        server = await loop.create_server(
            lambda: ClientConnection(worker, self.report.record),
            sock=listener,
            backlog=2048,
            ssl=worker.settings.tls,
            ssl_handshake_timeout=patience.HEAD_SECONDS if worker.settings.tls is not None else None,
        )
        serving()
        await stop.wait()
        server.close()
        await self._drain()
        await end(*tasks)
        await self.report.close()
        await self.snapshots.leave()
        await self.breakers.leave()
        await worker.redis.aclose()
        self._close()
        await asyncio.sleep(0)  # transports close on the next turn

    def _restarted(self, part: str) -> None:
        self.worker.metrics.count("mc.gateway.parts.restarted", part)

    async def _drain(self) -> None:
        """No new connections; requests in flight finish, idle connections close.

        A client that keeps its connection may be sending on it right now: for a moment such a request is still
        answered, with ``Connection: close``.
        """
        worker = self.worker
        worker.draining = True
        if worker.clients:
            await asyncio.sleep(QUIET_SECONDS)
        for client in list(worker.clients):
            if client.exchange is None:
                client.close()
        if worker.inflight:
            worker.idle.clear()  # it may have been set in between
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await worker.idle.wait()
            except TimeoutError:
                worker.metrics.count("mc.gateway.drain.cut", by=len(worker.inflight))
        for client in list(worker.clients):
            client.close()

    def _close(self) -> None:
        worker = self.worker
        worker.jwks.close()
        if worker.table is not None:
            for service in worker.table.services.values():
                for instance in service.instances.values():
                    instance.close()

    async def _sweep(self) -> None:
        """Every deadline, for as long as the worker lives."""
        worker = self.worker
        slow = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS if worker.inflight else 4 * SWEEP_SECONDS)
            now = monotonic()
            sweep.exchanges(worker, now)
            if now - slow >= 1.0:
                slow = now
                sweep.connections(worker, now)
                self.verdicts.tick(now)
