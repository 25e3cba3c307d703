"""What is killed and started again: a process of ours, a broker, the database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]


class Startable(Protocol):
    """May be killed, and started again on its own data."""

    def start(self) -> Any:
        """Start it, and return when it runs."""

    def kill(self) -> None:
        """SIGKILL, and wait for it."""


class Program:
    """A process of ours."""

    def __init__(self, log: Path, env: dict[str, str], *argv: str) -> None:
        self._log, self._env, self._argv = log, env, argv
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it waits by itself for what it needs."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._argv], cwd=ROOT, env=os.environ | self._env, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL, and wait for it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def ended(self) -> str:
        """Its last words, when it ended by itself; it never should."""
        if self.process is None or self.process.poll() in {None, -9}:
            return ""
        return f"{' '.join(self._argv[:3])} ended: {self._log.read_text(errors='replace')[-1500:]}"


class Part:
    """A part of the system that chaos may kill: whoever kills it starts it again, and nobody kills it meanwhile."""

    def __init__(self, kind: str, name: str, what: Startable) -> None:
        self.kind, self.name, self._what = kind, name, what
        self.kills = 0
        self._hands = threading.Lock()

    def start(self) -> None:
        """For the first time."""
        with self._hands:
            self._what.start()

    def strike(self, down_s: float, over: threading.Event) -> None:
        """Kill it, leave it down for a while, and start it again."""
        with self._hands:
            self._what.kill()
            self.kills += 1
            over.wait(down_s)
            self._what.start()

    def end(self) -> None:
        """For good."""
        with self._hands:
            self._what.kill()

    def ended(self) -> str:
        """See Program."""
        return self._what.ended() if isinstance(self._what, Program) and not self._hands.locked() else ""
