"""supervisord, with promises that it doesn't make itself.

It ends when the launcher does, however that dies, and its children end when it does. It holds the sockets of those who
serve clients, so that a restart refuses nobody. It outlives a full disk.

Run in the virtual environment as ``python -m missioncontrol.launch.daemon CONFIG WATCH_FD``. The
launcher holds the other end of the pipe ``WATCH_FD``: when the kernel closes it, the launcher is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from supervisor import events, loggers, supervisord
from supervisor.options import ServerOptions
from supervisor.states import SupervisorStates

from missioncontrol.launch.supervise import LISTEN, session_members

PR_SET_PDEATHSIG = 1
SUPERVISOR = os.getpid()
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
ALONE_SECONDS = 15.0
"""How long children may drain once the launcher is gone."""
HANDED = 3
"""Where a child finds its socket (sd_listen_fds(3))."""


class Doors:
    """The listening sockets of processes that ask for one, by their ``LISTEN`` variable ("host port").

    Open from a process's first start until it is stopped or given up: then clients are refused, and don't wait.
    """

    def __init__(self) -> None:
        self._open: dict[str, socket.socket] = {}
        self.descriptors: set[int] = set()

    def watch(self) -> None:
        """Follow what becomes of processes."""
        events.subscribe(events.ProcessStateStartingEvent, self._starting)
        events.subscribe(events.ProcessStateStoppedEvent, self._over)
        events.subscribe(events.ProcessStateFatalEvent, self._over)

    def hand_over(self, env: dict[str, str]) -> None:
        """In the child, just before it becomes the program."""
        door = self._open.get(env.get(LISTEN, ""))
        if door is not None:
            os.dup2(door.fileno(), HANDED, inheritable=True)
            env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}

    def _starting(self, event: Any) -> None:
        address = (event.process.config.environment or {}).get(LISTEN, "")
        if not address or address in self._open:
            return
        host, _, port = address.partition(" ")
        door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, int(port)))
            door.listen(4096)
        except OSError:
            door.close()  # the process tries by itself, and says what is wrong
            return
        if door.fileno() == HANDED:
            moved = door.dup()
            door.close()
            door = moved
        self._open[address] = door
        self.descriptors.add(door.fileno())

    def _over(self, event: Any) -> None:
        door = self._open.pop((event.process.config.environment or {}).get(LISTEN, ""), None)
        if door is not None:
            self.descriptors.discard(door.fileno())
            door.close()


class Options(ServerOptions):  # type: ignore[misc]
    """Children ask the kernel for SIGTERM at the supervisor's death; inherited descriptors stay open."""

    doors: Doors

    def execve(self, filename: str, argv: list[str], env: dict[str, str]) -> None:
        """In the child, just before it becomes the program."""
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != SUPERVISOR:
                os._exit(1)  # it died between fork and prctl
        self.doors.hand_over(env)
        os.execve(filename, argv, env)  # noqa: S606 - no shell is wanted

    def setsignals(self) -> None:
        """The last step before supervisord's loop, which begins by forgetting who subscribed."""
        super().setsignals()
        self.doors.watch()

    def close_fd(self, fd: int) -> None:
        """Children are to find the sockets; the kernel closes those that nobody took."""
        if fd not in self.doors.descriptors:
            super().close_fd(fd)

    def cleanup_fds(self) -> None:
        """Keep the home's lock, which is one of the descriptors that a reload would close."""


def lose_no_more_than_a_line() -> None:
    """A log that can't be written to (the disk is full) costs what it could not take, and says how much that was."""
    plain = loggers.FileHandler.emit
    rotating = loggers.RotatingFileHandler.emit

    def lost(handler: Any) -> None:
        handler.lost = getattr(handler, "lost", 0) + 1

    def emit(handler: Any, record: Any) -> None:
        before = getattr(handler, "lost", 0)
        plain(handler, record)
        if before and handler.lost == before:
            handler.lost = 0
            handler.stream.write(f"(the disk was full: {before} writes to this log failed)\n".encode())
            handler.flush()

    def emit_and_rotate(handler: Any, record: Any) -> None:
        try:
            if handler.stream.closed:  # turning it over failed half way
                handler.stream = Path(handler.baseFilename).open("ab")  # noqa: SIM115 - it stays open
            rotating(handler, record)
        except OSError:
            lost(handler)

    loggers.Handler.handleError = lost
    loggers.FileHandler.emit = emit
    loggers.RotatingFileHandler.emit = emit_and_rotate


def main(config: str, watch: int) -> NoReturn:
    """Supervise until told to stop or left alone."""
    lose_no_more_than_a_line()
    Options.doors = Doors()
    watcher = threading.Thread(target=_end_with_launcher, args=(watch,), daemon=True)
    watcher.start()
    first = True
    while True:
        options = Options()
        options.realize(["-c", config, "-n"], doc=__doc__)
        options.first, options.test = first, False
        supervisord.go(options)
        options.close_httpservers()
        options.close_logger()
        first = False
        if options.mood < SupervisorStates.RESTARTING:
            sys.exit(0)


def _end_with_launcher(watch: int) -> None:
    while os.read(watch, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # supervisord stops one after another, each with a patience of its own; nobody waits for that any more.
    time.sleep(ALONE_SECONDS)
    for pid in session_members(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
