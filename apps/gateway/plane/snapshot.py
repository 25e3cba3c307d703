"""Where a worker's configuration comes from: the last good revision on disk, then Redis, for as long as it runs.

Owns fetching, checking, swapping and acknowledging. A document that does not hold together is refused
and counted, and the one before it goes on serving.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from time import time
from typing import Any

import redis.exceptions

from apps.gateway.core import config
from apps.gateway.plane.files import write_private
from apps.gateway.plane.health import Verdicts
from apps.gateway.plane.report import Reporter
from apps.gateway.plane.table import Builder
from apps.gateway.plane.worker import Worker
from apps.lib import wire

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
ALIVE_SECONDS = 10.0
FORGET_SECONDS = 60.0


class Snapshots:
    """Keeps the worker's table at the newest good revision."""

    def __init__(self, worker: Worker, builder: Builder, verdicts: Verdicts, report: Reporter) -> None:
        self._worker = worker
        self._builder = builder
        self._verdicts = verdicts
        self._report = report
        self._file = worker.settings.home / "revision.json"
        self._refused = b""
        self._beat = asyncio.Event()

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
        data = await self._worker.redis.get(wire.CONFIG_CURRENT)
        assert not isinstance(data, str)  # noqa: S101 - this client does not decode
        if not data or data == self._refused or not self._take(data):
            return
        log.info("Serving revision %d", self._revision())
        self._save(data)
        self._beat.set()

    def _take(self, data: bytes) -> bool:
        """Check, compile and swap; False when there is nothing new or nothing good in it."""
        worker = self._worker
        try:
            document = config.decode(data)
        except config.ConfigError as error:
            self._refused = data
            worker.metrics.count("mc.gateway.revisions.refused")
            log.error("A published configuration was refused, the one before it stays: %s", error)
            return False
        table = worker.table
        if table is not None and table.document == document:
            return False
        worker.adopt(self._builder.build(document, table, self._verdicts.states))
        return True

    def _revision(self) -> int:
        table = self._worker.table
        return table.document.revision if table is not None else 0

    def _save(self, data: bytes) -> None:
        """Replace the file in one step: a reader sees the old revision or the new one, whole."""
        try:
            write_private(self._file, data)
        except OSError as error:
            self._worker.metrics.count("mc.gateway.revisions.unsaved")
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
        worker = self._worker
        table = worker.table
        now = time()
        if table is not None:
            beat: dict[str, Any] = {
                "revision": table.document.revision,
                "digest": table.document.digest,
                "at": now,
                "pid": os.getpid(),
                "node": worker.settings.node,
                "dropped": self._report.dropped,
            }
            await worker.redis.hset(wire.GATEWAY_WORKERS, worker.id, json.dumps(beat))
        entries = await worker.redis.hgetall(wire.GATEWAY_WORKERS)
        ages = {one: now - json.loads(entry)["at"] for one, entry in entries.items()}
        worker.alive = max(1, sum(age < ALIVE_SECONDS for age in ages.values()))
        gone = [one for one, age in ages.items() if age > FORGET_SECONDS]
        if gone:
            await worker.redis.hdel(wire.GATEWAY_WORKERS, *gone)

    async def leave(self) -> None:
        """The worker ends: it no longer counts as alive."""
        try:
            await self._worker.redis.hdel(wire.GATEWAY_WORKERS, self._worker.id)
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return  # the entry ages out by itself
