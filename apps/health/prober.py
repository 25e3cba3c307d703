"""The event loop that probes, one thread per worker process, for as long as the process lives.

A round hands its targets over and is done; a slow instance does not hold the next one up, its
finding is recorded when it comes. Findings are recorded in small batches, in order of arrival, on
one thread. Everything is bounded: probes under way, and by that the findings that wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock, Thread

import aiohttp
from django.db import DatabaseError, close_old_connections
from opentelemetry import metrics

from apps.health.probes import Finding, probe, session
from apps.health.rounds import Target
from apps.lib.addresses import Guard
from apps.lib.aio import in_thread

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
dropped = meter.create_counter("mc.health.findings.dropped", description="Findings the database did not take")

CONCURRENT = 500
"""Probes under way at once. Each is bounded by its timeout, and no instance has two."""
GATHER_S = 0.02
"""How long a first finding waits for company before both are written."""
BATCH = 500

Record = Callable[[Sequence[tuple[Target, Finding]]], None]


class _Round:
    """How many findings of one round are still out."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.recorded: Future[None] = Future()

    def one_less(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.recorded.set_result(None)


class Prober:
    """Probes targets on its own loop and gives the findings to ``record``, which runs on a database thread."""

    def __init__(self, record: Record, version: str, guard: Guard) -> None:
        self._record = record
        self._version = version
        self._guard = guard
        self._loop = asyncio.new_event_loop()
        self._queue: asyncio.Queue[tuple[Target, Finding, _Round]] = asyncio.Queue()
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._running: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None
        self._recorder: asyncio.Task[None] | None = None
        self._thread = Thread(target=self._run, name="prober", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether rounds can be handed over."""
        return self._thread.is_alive()

    def start(self, targets: Sequence[Target]) -> Future[None]:
        """Probe ``targets``; the future is done once all of their findings are recorded."""
        round_ = _Round(len(targets))
        if not targets:
            round_.recorded.set_result(None)
            return round_.recorded
        self._loop.call_soon_threadsafe(self._spawn, list(targets), round_)
        return round_.recorded

    def stop(self, seconds: float = 5.0) -> None:
        """Finish what is under way, at most ``seconds``, record it, and end the thread."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._drain(seconds), self._loop).add_done_callback(
            lambda _: self._loop.call_soon_threadsafe(self._loop.stop)
        )
        self._thread.join(seconds + 2)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._recorder = self._loop.create_task(self._record_findings())
        self._recorder.add_done_callback(self._recorder_ended)
        try:
            self._loop.run_forever()
        finally:
            if self._running or self._http is not None:
                self._loop.run_until_complete(self._drain(0))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _recorder_ended(self, recorder: asyncio.Task[None]) -> None:
        """A fault of ours: end the thread, so that the next round gets a new one instead of probing for nobody."""
        if not recorder.cancelled() and (error := recorder.exception()) is not None:
            log.error("The recorder of findings ended; the next round starts another.", exc_info=error)
            self._loop.stop()

    def _spawn(self, targets: list[Target], round_: _Round) -> None:
        for target in targets:
            task = self._loop.create_task(self._probe(target, round_))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _probe(self, target: Target, round_: _Round) -> None:
        async with self._slots:
            if self._http is None:
                self._http = session(self._version, self._guard)
            finding = await probe(self._http, target.request)
        self._queue.put_nowait((target, finding, round_))

    async def _record_findings(self) -> None:
        while True:
            batch = [await self._queue.get()]
            if len(batch) < len(self._running) + 1:
                await asyncio.sleep(GATHER_S)
            while not self._queue.empty() and len(batch) < BATCH:
                batch.append(self._queue.get_nowait())
            try:
                await in_thread(self._write, [(target, finding) for target, finding, _ in batch])
            except DatabaseError as error:
                # The claim lapses with the interval and the next probe finds it out again.
                dropped.add(len(batch))
                log.warning("%d findings could not be stored: %s", len(batch), error)
            finally:
                for _, _, round_ in batch:
                    round_.one_less()
                    self._queue.task_done()

    def _write(self, found: Sequence[tuple[Target, Finding]]) -> None:
        # This thread serves no request and no task, so nobody else looks after its connections.
        close_old_connections()
        self._record(found)

    async def _drain(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._running:
                    await asyncio.wait(set(self._running))
                await self._queue.join()
        except TimeoutError:
            log.warning("Stopped with %d probes under way.", len(self._running))
        finally:
            tasks = [task for task in (*self._running, self._recorder) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._http is not None:
                await self._http.close()
                self._http = None


class ProberOfProcess:
    """The process's prober: made at first use, since a thread does not survive a fork, and made anew if it died."""

    def __init__(self, record: Record, version: str, guard: Guard) -> None:
        self._record, self._version, self._guard = record, version, guard
        self._lock = Lock()
        self._prober: Prober | None = None

    def get(self) -> Prober:
        """The running prober."""
        with self._lock:
            if self._prober is None or not self._prober.alive:
                self._prober = Prober(self._record, self._version, self._guard)
            return self._prober

    def stop(self) -> None:
        """Stop it, if it ever ran."""
        with self._lock:
            prober, self._prober = self._prober, None
        if prober is not None:
            prober.stop()
