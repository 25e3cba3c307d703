"""supervisord, with two promises it doesn't make itself: it ends when the launcher does, however
that dies, and its children end when it does.

Run in the virtual environment as ``python -m missioncontrol.launch.daemon CONFIG WATCH_FD``. The
launcher holds the other end of the pipe ``WATCH_FD``: when the kernel closes it, the launcher is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import NoReturn

from supervisor import supervisord
from supervisor.options import ServerOptions
from supervisor.states import SupervisorStates

PR_SET_PDEATHSIG = 1
SUPERVISOR = os.getpid()
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Options(ServerOptions):  # type: ignore[misc]
    """Children ask the kernel for SIGTERM at the supervisor's death; inherited descriptors stay open."""

    def execve(self, filename: str, argv: list[str], env: dict[str, str]) -> None:
        """In the child, just before it becomes the program."""
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != SUPERVISOR:
                os._exit(1)  # it died between fork and prctl
        os.execve(filename, argv, env)  # noqa: S606 - no shell is wanted

    def cleanup_fds(self) -> None:
        """Keep the home's lock, which is one of the descriptors that a reload would close."""


def main(config: str, watch: int) -> NoReturn:
    """Supervise until told to stop or left alone."""
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


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
