"""A parent that owns the listening socket and keeps N workers on it.

The socket outlives any worker: one that dies takes with it only what it had in flight, the connections still in
the queue go to the others. Workers are forks, so they share the memory of what was imported before.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvloop

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""After the first signal, workers that have not ended are killed."""

QUICK_DEATH = 1.0
"""A worker that lived shorter than this is replaced only after as long a pause."""

Serve = Callable[[socket.socket, asyncio.Event], Coroutine[Any, Any, None]]


def listen(host: str, port: int) -> socket.socket:
    """The listening socket; OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class Parent:
    """Starts, watches, replaces and stops workers."""

    def __init__(self, listener: socket.socket, workers: int, serve: Serve) -> None:
        self._listener = listener
        self._count = workers
        self._serve = serve
        self._born: dict[int, float] = {}
        self._signals = 0
        # Workers hold the other end: when this process vanishes, however, they see it closed and drain.
        self._alive, self._watch = os.pipe()
        self._wake, self._poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Until SIGTERM or SIGINT; a second one ends the workers at once. The exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        gc.collect()
        gc.freeze()  # what is loaded by now stays for good; forks need not touch its pages
        for _ in range(self._count):
            self._spawn()
        while not self._signals:
            self._wait(None)
            self._reap(replace=True)
        self._listener.close()
        return self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._poke, b".")

    def _wait(self, seconds: float | None) -> None:
        if select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 4096)

    def _spawn(self) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_worker()
        self._born[pid] = time.monotonic()

    def _become_worker(self) -> None:
        """The child's whole life; never returns. A fault unwinds to the interpreter, which shows it and exits 1."""
        os.close(self._watch)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        uvloop.run(self._work())
        sys.exit(0)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_reader(self._alive, stop.set)
        # Exchanges are freed by reference counts; the collector is for the rest, and may come seldom.
        gc.set_threshold(50_000, 20, 50)
        await self._serve(self._listener, stop)

    def _reap(self, *, replace: bool) -> None:
        while self._born:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            lived = time.monotonic() - self._born.pop(pid, 0.0)
            if not replace or self._signals:
                continue
            log.error("Gateway worker %d ended (%s); another takes its place", pid, os.waitstatus_to_exitcode(status))
            if lived < QUICK_DEATH:
                time.sleep(QUICK_DEATH)
            self._spawn()

    def _stop(self) -> int:
        heard = self._signals
        deadline = time.monotonic() + STOP_SECONDS
        self._signal_all(signal.SIGTERM)
        while self._born and time.monotonic() < deadline and self._signals == heard:
            self._wait(0.2)
            self._reap(replace=False)
        if self._born:
            self._signal_all(signal.SIGKILL)
            for pid in list(self._born):
                os.waitpid(pid, 0)
        return 0

    def _signal_all(self, number: int) -> None:
        for pid in self._born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
