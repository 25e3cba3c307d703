"""Where a worker's configuration comes from: the last good revision on disk, then Redis, for as long as it runs.

Owns fetching, checking, swapping and acknowledging. A document that does not hold together is refused
and counted, and the one before it goes on serving.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import redis.exceptions

from apps.gateway.core import config
from apps.lib import wire

if TYPE_CHECKING:
    from apps.gateway.plane.gateway import Gateway

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
ALIVE_SECONDS = 10.0
FORGET_SECONDS = 60.0


class Snapshots:
    """Keeps the gateway's table at the newest good revision."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._file = gateway.settings.home / "revision.json"
        self._refused = b""
        self._alive = max(1, gateway.settings.workers)
        self._beat = asyncio.Event()

    def share(self) -> float:
        """This worker's part of what all workers share: 1 / workers alive, as last known."""
        return 1.0 / self._alive

    # -- taking in ------------------------------------------------------------------------------------

    def load_disk(self) -> None:
        """Start from the last good revision, if there is one."""
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("The last good revision can't be read (%s)", error.strerror)
            return
        if self._take(data):
            log.info("Serving revision %d from disk", self._revision())

    async def on_published(self, message: bytes) -> None:
        """A revision was announced."""
        await self.refresh()

    async def refresh(self) -> None:
        """Fetch the current document and swap when it is another one."""
        data = await self._gateway.redis.get(wire.CONFIG_CURRENT)
        assert not isinstance(data, str)  # noqa: S101 - this client does not decode
        if not data or data == self._refused or not self._take(data):
            return
        log.info("Serving revision %d", self._revision())
        self._save(data)
        self._beat.set()

    def _take(self, data: bytes) -> bool:
        """Check, compile and swap; False when there is nothing new or nothing good in it."""
        gateway = self._gateway
        try:
            document = config.decode(data)
        except config.ConfigError as error:
            self._refused = data
            gateway.metrics.count("mc.gateway.revisions.refused")
            log.error("A published configuration was refused, the one before it stays: %s", error)
            return False
        table = gateway.table
        if table is not None and table.document == document:
            return False
        gateway.adopt(gateway.builder.build(document, table, gateway.verdicts.states))
        return True

    def _revision(self) -> int:
        table = self._gateway.table
        return table.document.revision if table is not None else 0

    def _save(self, data: bytes) -> None:
        """Replace the file in one step: a reader sees the old revision or the new one, whole."""
        try:
            write_private(self._file, data)
        except OSError as error:
            self._gateway.metrics.count("mc.gateway.revisions.unsaved")
            log.warning("The revision can't be kept on disk (%s)", error.strerror)

    # -- telling --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Acknowledge: at once after a swap, and every two seconds."""
        while True:
            try:
                await self._heartbeat()
            except (redis.exceptions.RedisError, OSError, TimeoutError):
                pass  # the listener says that Redis is away; this only skips a beat
            self._beat.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._beat.wait()
            except TimeoutError:
                continue

    async def _heartbeat(self) -> None:
        gateway = self._gateway
        table = gateway.table
        now = time()
        if table is not None:
            beat: dict[str, Any] = {
                "revision": table.document.revision,
                "digest": table.document.digest,
                "at": now,
                "pid": os.getpid(),
                "node": gateway.settings.node,
                "dropped": gateway.report.dropped,
            }
            await gateway.redis.hset(wire.GATEWAY_WORKERS, gateway.id, json.dumps(beat))
        entries = await gateway.redis.hgetall(wire.GATEWAY_WORKERS)
        ages = {worker: now - json.loads(entry)["at"] for worker, entry in entries.items()}
        self._alive = max(1, sum(age < ALIVE_SECONDS for age in ages.values()))
        gone = [worker for worker, age in ages.items() if age > FORGET_SECONDS]
        if gone:
            await gateway.redis.hdel(wire.GATEWAY_WORKERS, *gone)

    async def leave(self) -> None:
        """The worker ends: it no longer counts as alive."""
        try:
            await self._gateway.redis.hdel(wire.GATEWAY_WORKERS, self._gateway.id)
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return  # the entry ages out by itself


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
