"""End whatever a test run started once the run itself is gone, however it ended: also by ``kill -9``.

Everything that a run starts inherits a variable with the run's name, into whatever session and group it goes. A
watcher outside of the run holds the end of a pipe; when the kernel closes the other end, it kills by that name.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time

import psutil

NAME = "TESTS_OF_RUN"
SECONDS = 30.0
"""The longest that a watcher goes on killing what others start again."""


def begin() -> None:
    """Name this run, and have it watched; nothing happens in a process that belongs to a run already."""
    if NAME in os.environ:
        return
    run = f"{os.getpid()}-{secrets.token_hex(8)}"
    read, _write = os.pipe()  # never closed: the kernel does that
    null = os.open(os.devnull, os.O_RDWR)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "tests.watch", str(read), run],
        dict(os.environ),
        file_actions=[
            *((os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)),
            (os.POSIX_SPAWN_DUP2, read, read),
        ],
        setsid=True,
    )
    os.close(read)
    os.close(null)
    os.environ[NAME] = run


def members(run: str) -> list[psutil.Process]:
    """Every live process of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(NAME) == run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def main(read: int, run: str) -> None:
    """Wait for the run's end; then kill until nothing of it is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(read, 1):
        pass
    deadline = time.monotonic() + SECONDS
    while (left := members(run)) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
