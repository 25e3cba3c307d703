"""Where a worker's configuration comes from: the last good revision on disk, then Redis, for as long as it runs.

Owns fetching, checking, swapping and acknowledging. A document that is not signed by the control plane, or does
not hold together, is refused and counted, and the one before it goes on serving. Revisions only go forward.
"""

from __future__ import annotations

import asyncio
import logging
import os
from time import time
from typing import Any

import redis.exceptions

from apps.gateway.core import config
from apps.gateway.plane.health import Verdicts
from apps.gateway.plane.report import Reporter
from apps.gateway.plane.table import Builder
from apps.gateway.plane.worker import Worker
from apps.lib import wire
from apps.lib.border import REFUSED, text
from apps.lib.clock import monotonic
from apps.lib.messages import WorkerBeat
from services.kit.files import write_private
from services.kit.seal import Refused

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
        self._seen = b""
        """What Redis held last, whether it was taken or not."""
        self._signed_at = 0.0
        """When the revision in use was signed."""
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
        if not data or data == self._seen:
            return
        self._seen = data
        if not self._take(data):
            return
        log.info("Serving revision %d", self._revision())
        self._save(data)
        self._beat.set()

    def _take(self, data: bytes) -> bool:
        """Check, compile and swap; False when there is nothing new or nothing good in it."""
        worker = self._worker
        try:
            signed = worker.settings.revisions.open(wire.CONFIG_CURRENT, data)
            document = config.decode(signed.body)
        except Refused as error:
            worker.border.pass_over(REFUSED, wire.CONFIG_CURRENT)
            log.error("A configuration that the control plane did not sign was refused: %s", error)
            return False
        except config.ConfigError as error:
            worker.metrics.count("mc.gateway.revisions.refused", "invalid")
            log.error("A published configuration was refused, the one before it stays: %s", error)
            return False
        table = worker.table
        if table is not None and not self._is_newer(document, signed.at, table.document):
            if document != table.document:
                worker.metrics.count("mc.gateway.revisions.refused", "overtaken")
                log.error("Revision %d was refused: it is older than the one in use", document.revision)
            return False
        self._signed_at = signed.at
        if table is not None and table.document == document:
            return False
        worker.adopt(self._builder.build(document, table, self._verdicts.states))
        return True

    def _is_newer(self, document: config.Document, signed_at: float, current: config.Document) -> bool:
        """Old revisions are signed as well, and may open what was closed since: they are never gone back to.

        The higher number is the newer one, whatever the clocks of control processes say. A database that was
        restored from a backup counts anew from a lower number: then the later signature decides.
        """
        return document.revision > current.revision or signed_at > self._signed_at

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
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                # The listener says that Redis is away; this only skips a beat.
                await self._worker.cleared(error)
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
            beat = WorkerBeat(
                revision=table.document.revision,
                digest=table.document.digest,
                at=now,
                pid=os.getpid(),
                node=worker.settings.node,
                dropped=self._report.dropped,
                refused=worker.border.passed_over,
                of=worker.settings.workers if monotonic() - worker.started_at > ALIVE_SECONDS else 0,
            )
            entry: Any = worker.border.close(beat, wire.GATEWAY_WORKERS, worker.id)
            await worker.redis.hset(wire.GATEWAY_WORKERS, worker.id, entry)
        entries = await worker.redis.hgetall(wire.GATEWAY_WORKERS)
        beats = worker.border.open_all(WorkerBeat, entries, wire.GATEWAY_WORKERS)
        worker.alive = max(1, sum(now - one.at < ALIVE_SECONDS for one in beats.values()))
        # What nobody of ours has said is nobody's to keep.
        gone = [field for field in entries if (one := beats.get(text(field))) is None or now - one.at > FORGET_SECONDS]
        if gone:
            await worker.redis.hdel(wire.GATEWAY_WORKERS, *gone)

    async def leave(self) -> None:
        """The worker ends: it no longer counts as alive."""
        try:
            await self._worker.redis.hdel(wire.GATEWAY_WORKERS, self._worker.id)
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return  # the entry ages out by itself
