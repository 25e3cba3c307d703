"""One worker of the data plane: owns the parts, their start and end, and what they share.

Everything behind it may be away: it starts from the last good revision on disk, serves without Redis,
and reports when a collector listens again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import secrets
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from time import time

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from apps.gateway.core.metrics import Metrics
from apps.gateway.plane.breakers import Breakers
from apps.gateway.plane.exchange import Exchange
from apps.gateway.plane.health import Verdicts
from apps.gateway.plane.jwks import KeyStore
from apps.gateway.plane.limiter import Limiter
from apps.gateway.plane.listener import Listener
from apps.gateway.plane.report import Reporter
from apps.gateway.plane.server import ClientConnection
from apps.gateway.plane.snapshot import Snapshots
from apps.gateway.plane.table import Builder, Table
from apps.gateway.plane.writes import Writes
from apps.lib import wire
from apps.lib.clock import monotonic
from apps.lib.problem import Problem

SWEEP_SECONDS = 0.05
"""How often deadlines are looked at while a request is in flight; a deadline is at most this much late."""

DRAIN_SECONDS = 8.0
"""How long requests in flight may finish after the worker was told to stop."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Settings:
    """What the composition root tells a worker."""

    home: Path
    """Where last good revisions and key sets are kept."""
    redis_url: str
    otlp_url: str
    pepper: bytes
    fleet_token: str
    version: str
    workers: int = 1
    max_connections: int = 10_000
    trusted_proxies: tuple[Network, ...] = ()
    otlp_headers: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None
    node: str = socket.gethostname()


class Gateway:
    """A worker's parts and the state they share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.id = f"{settings.node}:{os.getpid()}:{secrets.token_hex(3)}"
        self.started_at = monotonic()
        self.draining = False
        self.inflight: set[Exchange] = set()
        self.idle = asyncio.Event()
        """Set while draining, once nothing is in flight."""
        self.clients: set[ClientConnection] = set()
        self.trusted = settings.trusted_proxies
        # Trace ids need to be unlike each other, not unguessable.
        self.ids = random.Random(secrets.randbits(256))  # noqa: S311
        self.metrics = Metrics()
        self.writes = Writes()
        self.table: Table | None = None
        self.redis = redis.asyncio.Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=0.5,
            socket_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )
        self.jwks = KeyStore(settings.home, self.metrics, self._keys_changed)
        self.breakers = Breakers(self)
        self.builder = Builder(
            settings.pepper, settings.fleet_token, self.jwks.sets, self.breakers.changed, self.writes
        )
        self.verdicts = Verdicts(self)
        self.snapshots = Snapshots(self)
        self.limiter = Limiter(self.redis, self.metrics, self.snapshots.share)
        self.report = Reporter(self)
        self.listener = Listener(
            self.redis,
            {
                wire.CONFIG_CHANNEL: self.snapshots.on_published,
                wire.HEALTH_CHANNEL: self.verdicts.on_verdict,
                wire.BREAKER_OPENED: self.breakers.on_opened,
            },
            (self.snapshots.refresh, self.verdicts.refresh),
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._date = b""
        self._date_at = 0.0

    # -- life -----------------------------------------------------------------------------------------

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Accept clients on ``listener`` until ``stop``, then drain."""
        loop = asyncio.get_running_loop()
        self.snapshots.load_disk()
        self._tasks = [
            loop.create_task(work)
            for work in (
                self.listener.run(),
                self.snapshots.run(),
                self.breakers.run(),
                self.jwks.run(),
                self.report.run(),
                self._sweep(),
            )
        ]
        server = await loop.create_server(
            lambda: ClientConnection(self), sock=listener, backlog=2048, ssl=self.settings.tls
        )
        stopped = loop.create_task(stop.wait())
        await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        server.close()
        await self._drain()
        stopped.cancel()
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.report.close()
        await self.limiter.close()
        await self.snapshots.leave()
        await self.breakers.leave()
        await self.redis.aclose()
        self._close()
        await asyncio.sleep(0)  # transports close on the next turn
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome  # a part died of a fault: say so, and let a fresh worker take over

    async def _drain(self) -> None:
        """No new requests; those in flight finish, idle connections close."""
        self.draining = True
        for client in list(self.clients):
            if client.exchange is None:
                client.close()
        if self.inflight:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self.idle.wait()
            except TimeoutError:
                self.metrics.count("mc.gateway.drain.cut", by=len(self.inflight))
        for client in list(self.clients):
            client.close()

    def _close(self) -> None:
        self.jwks.close()
        if self.table is not None:
            for service in self.table.services.values():
                for instance in service.instances.values():
                    instance.close()

    async def _sweep(self) -> None:
        """Deadlines, idle connections and breakers' waits, without a timer for each."""
        slow = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS if self.inflight else 4 * SWEEP_SECONDS)
            now = monotonic()
            for exchange in [one for one in self.inflight if one.deadline and one.deadline <= now]:
                exchange.expire(now)
            table = self.table
            if table is not None:
                for service in table.services.values():
                    service.breaker.tick(now)
            if now - slow < 1.0:
                continue
            slow = now
            for client in [one for one in self.clients if one.exchange is None and one.deadline <= now]:
                client.expire()
            self.limiter.sweep(now)
            if table is not None:
                for service in table.services.values():
                    for instance in service.instances.values():
                        instance.sweep(now)

    # -- for the parts --------------------------------------------------------------------------------

    def admit(self, client: ClientConnection) -> bool:
        """A new connection; False when there are too many."""
        if len(self.clients) >= self.settings.max_connections:
            self.metrics.count("mc.gateway.connections.refused", "too_many")
            return False
        self.clients.add(client)
        return True

    def leave(self, client: ClientConnection) -> None:
        """A connection is gone."""
        self.clients.discard(client)

    def adopt(self, table: Table) -> None:
        """Serve from ``table`` from now on."""
        self.limiter.configure(table.limits)
        self.jwks.configure(table.document.issuers)
        self.table = table

    def _keys_changed(self) -> None:
        if self.table is not None:
            self.table.tokens.forget()

    def date_line(self) -> bytes:
        """The Date field, made once a second."""
        now = time()
        if now - self._date_at >= 1:
            self._date_at = float(int(now))
            self._date = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._date

    def answer_own(self, exchange: Exchange, path: str) -> None:
        """The gateway's own addresses, all under ``/-/`` so that they can't shadow a route."""
        table = self.table
        if path == "/-/health":
            uptime = round(monotonic() - self.started_at, 1)
            body = {"status": "ok", "service": "gateway", "version": self.settings.version, "uptime_s": uptime}
            exchange.respond(200, json.dumps(body).encode())
        elif path != "/-/ready":
            exchange.refuse_own(Problem(404, "not_found", "There is nothing at this address."))
        elif self.draining:
            exchange.refuse_own(Problem(503, "not_ready", "It is draining.", 1))
        elif table is None:
            exchange.refuse_own(Problem(503, "not_ready", "No configuration has reached this gateway yet.", 1))
        else:
            exchange.respond(200, json.dumps({"status": "ready", "revision": table.document.revision}).encode())


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read addresses and CIDR blocks."""
    return tuple(ipaddress.ip_network(text) for text in texts)
