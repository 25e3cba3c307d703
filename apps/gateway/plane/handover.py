"""How the workers of one parent give way to those of the next, on one listening socket that stays open throughout.

The socket may come from whoever started us (sd_listen_fds(3): systemd, or the launcher's supervisor), and goes from
one image of the parent to the next by the same convention. Whose workers serve is told by a file lock: a parent
holds it from when its workers accept until it ends, however it ends. Workers that have lost their parent serve on
until somebody holds the lock again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from pathlib import Path

FIRST = 3
"""The descriptor of a socket that was handed to us."""
ORPHAN_SECONDS = 300.0
"""How long workers serve on without a parent: longer than a supervisor needs to bring one, and not for ever."""
LOOK_SECONDS = 0.2


def inherited() -> socket.socket | None:
    """The listening socket that was handed to this process; None when none was."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    listener = socket.socket(fileno=FIRST)
    listener.setblocking(False)
    os.set_inheritable(FIRST, False)
    return listener


def become(argv: list[str], listener: socket.socket) -> None:
    """Be ``argv`` from here on, in this same process, with the socket; returns only by OSError."""
    if listener.fileno() == FIRST:
        os.set_inheritable(FIRST, True)
    else:
        os.dup2(listener.fileno(), FIRST)
    env = os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execve(argv[0], argv, env)  # noqa: S606 - no shell is wanted


class Reign:
    """The lock that a serving parent holds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Opened before the pipe that tells workers of their parent's end: the kernel closes descriptors in
        # order, so whoever hears of that end finds the lock free.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.held = False

    def take(self) -> bool:
        """Try to begin; True when we reign."""
        if not self.held:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False  # somebody looks at it just now
            self.held = True
            # Only who waits for the next reign reads the word; a full disk must not end this one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"{os.getpid()} {os.urandom(8).hex()}\n".encode(), 0)
        return True

    def forget(self) -> None:
        """In a worker, which must not hold its parent's lock by inheritance."""
        os.close(self._descriptor)

    async def succeeded(self) -> None:
        """Wait, in a worker without a parent, until another parent reigns; ORPHAN_SECONDS at most."""
        try:
            async with asyncio.timeout(ORPHAN_SECONDS):
                while True:
                    await asyncio.sleep(LOOK_SECONDS)
                    if self._taken():
                        return
        except TimeoutError:
            return

    def _taken(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that other orphans who look at the same moment don't take each other for a parent.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def word(path: Path) -> str:
    """Which reign it is, for whoever waits for the next; empty before the first."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
