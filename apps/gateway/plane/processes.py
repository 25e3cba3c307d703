"""A parent that owns the listening socket and keeps N workers on it.

The socket outlives any worker: one that dies takes with it only what it had in flight, the connections still in
the queue go to the others. Workers are forks, so they share the memory of what was imported before.

A worker that hangs is ended, and another takes its place (pulse.py).

SIGTERM and SIGINT drain. SIGUSR2 begins anew, with the code and the settings of now: the parent becomes its next image
in place, and the old workers serve until the new ones do (handover.py).
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
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvloop

from apps.gateway.plane.handover import Reign, become
from apps.gateway.plane.pulse import Pulse

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""After the first signal, workers that have not ended are killed."""

QUICK_DEATH = 1.0
"""A worker that lived shorter than this is replaced only after as long a pause."""

Serve = Callable[[socket.socket, asyncio.Event, Callable[[], object]], Coroutine[Any, Any, None]]
"""(socket, stop, serving): calls ``serving`` once it accepts; returns when ``stop`` is set and all is drained."""

STOPS = (signal.SIGTERM, signal.SIGINT)


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
    """Starts, watches, replaces and stops workers.

    ``kept``: the socket was handed to us and is there for the next parent too, so workers that lose this one serve on.
    ``argv`` is what the parent becomes on SIGUSR2; with ``--check`` behind it, it must end with 0 first. A worker that
    gives no sign of life for ``hang_s`` seconds is killed.
    """

    def __init__(
        self,
        listener: socket.socket,
        workers: int,
        serve: Serve,
        reign: Reign,
        argv: list[str],
        *,
        kept: bool,
        hang_s: float,
    ) -> None:
        self._listener = listener
        self._count = workers
        self._pulse = Pulse(workers, hang_s)
        self._places: dict[int, int] = {}
        self._hung: set[int] = set()
        self.after_hang = False
        """In a worker: it takes the place of one that hung."""
        self._serve = serve
        self._reign = reign
        self._argv = argv
        self._kept = kept
        self._born: dict[int, float] = {}
        self._serving = 0
        self._signals = 0
        self._renew = False
        # Workers hold the other end: when this process vanishes, however, they see it closed.
        self._alive, self._watch = os.pipe()
        self._wake, self._poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ready, self._tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Until SIGTERM or SIGINT; a second one ends the workers at once. The exit code."""
        for number in (*STOPS, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        # A former image of this process held these back, lest they end it half way.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPS, signal.SIGUSR2))
        gc.collect()
        gc.freeze()  # what is loaded by now stays for good; forks need not touch its pages
        for _ in range(self._count):
            self._spawn()
        while not self._signals:
            self._wait(self._pulse.every_s if self._reign.held or self._serving < self._count else 0.05)
            self._end_hung()
            self._reap(replace=True)
            if self._serving >= self._count:
                self._reign.take()
            if self._renew:
                self._renew = False
                self._begin_anew()
        self._listener.close()
        return self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in STOPS:
            self._signals += 1
        elif number == signal.SIGUSR2:
            self._renew = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._poke, b".")

    def _wait(self, seconds: float | None) -> None:
        heard = select.select([self._wake, self._ready], [], [], seconds)[0]
        if self._wake in heard:
            os.read(self._wake, 4096)
        if self._ready in heard:
            self._serving += len(os.read(self._ready, 4096))

    def _begin_anew(self) -> None:
        """Become the next image; when that could not start, say so and stay."""
        checked = subprocess.run([*self._argv, "--check"], capture_output=True, text=True, check=False)
        if checked.returncode:
            log.error("The gateway stays as it is, for it could not begin anew: %s", checked.stderr[-500:].strip())
            return
        self._signal_all(signal.SIGUSR2)
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, signal.SIGUSR2))
        become(self._argv, self._listener)

    def _end_hung(self) -> None:
        for pid, seconds in self._pulse.silent(self._places).items():
            if pid not in self._hung:
                self._hung.add(pid)
                log.error("Gateway worker %d has given no sign of life for %.0f s and is killed", pid, seconds)
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is nobody else's number

    def _spawn(self, *, after_hang: bool = False) -> None:
        place = min(set(range(self._count)) - set(self._places.values()))
        self._pulse.beat(place)
        pid = os.fork()
        if pid == 0:
            self.after_hang = after_hang
            self._become_worker(place)
        self._born[pid] = time.monotonic()
        self._places[pid] = place

    def _become_worker(self, place: int) -> None:
        """The child's whole life; never returns. A fault unwinds to the interpreter, which shows it and exits 1."""
        os.close(self._watch)
        self._reign.forget()
        for number in (*STOPS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        uvloop.run(self._work(place))
        sys.exit(0)

    async def _work(self, place: int) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in STOPS:
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR2, self._stay)
        orphaned = asyncio.Event()
        loop.add_reader(self._alive, self._lose, loop, orphaned)
        # Exchanges are freed by reference counts; the collector is for the rest, and may come seldom.
        gc.set_threshold(50_000, 20, 50)
        alone = loop.create_task(self._outlive(orphaned, stop), name="outlive")
        beating = loop.create_task(self._beat(place), name="pulse")
        await self._serve(self._listener, stop, lambda: os.write(self._tell, b"."))
        alone.cancel()
        beating.cancel()

    async def _beat(self, place: int) -> None:
        while True:
            self._pulse.beat(place)
            await asyncio.sleep(self._pulse.every_s)

    def _stay(self) -> None:
        self._kept = True

    def _lose(self, loop: asyncio.AbstractEventLoop, orphaned: asyncio.Event) -> None:
        loop.remove_reader(self._alive)
        orphaned.set()

    async def _outlive(self, orphaned: asyncio.Event, stop: asyncio.Event) -> None:
        await orphaned.wait()
        if self._kept:
            log.warning("Gateway worker %d has lost its parent and serves on until another is there", os.getpid())
            await self._reign.succeeded()
        # Nobody is left to end a drain that doesn't.
        signal.alarm(int(STOP_SECONDS) + 5)
        stop.set()

    def _reap(self, *, replace: bool) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            born = self._born.pop(pid, None)
            self._places.pop(pid, None)
            hung = pid in self._hung
            self._hung.discard(pid)
            # Those whom we don't know are a former image's, and have given way.
            if born is None or not replace or self._signals:
                continue
            log.error("Gateway worker %d ended (%s); another takes its place", pid, os.waitstatus_to_exitcode(status))
            if time.monotonic() - born < QUICK_DEATH:
                time.sleep(QUICK_DEATH)
            self._spawn(after_hang=hung)

    def _stop(self) -> int:
        heard = self._signals
        deadline = time.monotonic() + STOP_SECONDS
        self._reign.take()  # whoever is left of a former image goes too
        self._signal_all(signal.SIGTERM)
        while _has_children() and time.monotonic() < deadline and self._signals == heard:
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


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
