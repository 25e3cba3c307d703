"""What the parts of one worker share: its settings, its state, and what every request needs at hand.

Knows none of the parts that read and change it; apps.gateway.plane.gateway puts those together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import ssl
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Protocol

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from apps.gateway.core.metrics import Metrics
from apps.gateway.plane.jwks import KeyStore
from apps.gateway.plane.limiter import Limiter
from apps.gateway.plane.table import Table
from apps.gateway.plane.writes import Writes
from apps.lib.addresses import Guard, Network, Policy
from apps.lib.border import Border, is_spoilt
from apps.lib.clock import monotonic
from services.kit.seal import Seal
from services.kit.signature import Verifier

log = logging.getLogger(__name__)


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
    wire: Seal
    """Opens and closes what workers and the control plane tell each other."""
    revisions: Verifier
    """Opens published configuration."""
    guard: Guard = field(default_factory=lambda: Guard(Policy()))
    """Whom upstream connections and key fetches may reach."""
    workers: int = 1
    max_connections: int = 10_000
    trusted_proxies: tuple[Network, ...] = ()
    otlp_headers: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None
    node: str = socket.gethostname()
    strict: bool = False
    """A fault of our own is raised, for tests to see, where it would otherwise cost one request."""


class Request(Protocol):
    """A request in flight."""

    deadline: float

    @property
    def waits(self) -> str: ...

    def expire(self, now: float) -> None: ...


class Connection(Protocol):
    """A client's connection."""

    deadline: float

    @property
    def exchange(self) -> Request | None: ...

    def expire(self, now: float) -> None: ...

    def close(self) -> None: ...


class Worker:
    """One worker's state."""

    __slots__ = (
        "_date",
        "_date_at",
        "alive",
        "border",
        "clients",
        "draining",
        "id",
        "idle",
        "ids",
        "inflight",
        "jwks",
        "limiter",
        "metrics",
        "redis",
        "settings",
        "started_at",
        "table",
        "writes",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.id = f"{settings.node}:{os.getpid()}:{secrets.token_hex(3)}"
        self.started_at = monotonic()
        self.alive = max(1, settings.workers)
        """Workers that share what Redis holds, as last known."""
        self.draining = False
        self.inflight: set[Request] = set()
        self.idle = asyncio.Event()
        """Set while draining, once nothing is in flight."""
        self.clients: set[Connection] = set()
        # Trace ids need to be unlike each other, not unguessable.
        self.ids = random.Random(secrets.randbits(256))  # noqa: S311
        self.metrics = Metrics()
        self.border = Border(settings.wire, self.metrics.count)
        """What is believed of what Redis holds."""
        self.writes = Writes()
        self.table: Table | None = None
        self.redis = redis.asyncio.Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=0.5,
            socket_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )
        self.jwks = KeyStore(settings.home, self.metrics, self._keys_changed, settings.guard)
        self.limiter = Limiter(self.redis, self.metrics, self._share)
        self._date = b""
        self._date_at = 0.0

    def admit(self, client: Connection) -> bool:
        """A new connection; False when there are too many."""
        if len(self.clients) >= self.settings.max_connections:
            self.metrics.count("mc.gateway.connections.refused", "too_many")
            return False
        self.clients.add(client)
        return True

    def fault(self, where: str, error: Exception) -> None:
        """Something happened that can't: count it and go on, unless somebody wants to see it."""
        self.metrics.count("mc.gateway.faults", where)
        log.error("A fault in the gateway's %s: %s", where, error)
        if self.settings.strict:
            raise error

    def adopt(self, table: Table) -> None:
        """Serve from ``table`` from now on."""
        self.limiter.configure(table.limits)
        self.jwks.configure(table.document.issuers)
        self.table = table

    async def cleared(self, error: Exception) -> None:
        """After a refused command: clear away what stands where a key of ours belongs. Any other error is let be."""
        if not is_spoilt(error):
            return
        try:
            await self.border.clear_async(self.redis)
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return  # the next one who meets it tries again

    def date_line(self) -> bytes:
        """The Date field, made once a second."""
        now = time()
        if now - self._date_at >= 1:
            self._date_at = float(int(now))
            self._date = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._date

    def _keys_changed(self) -> None:
        if self.table is not None:
            self.table.tokens.forget()

    def _share(self) -> float:
        return 1.0 / self.alive
