"""Control's database and a relay of a test's own, as processes that can be killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Relayed:
    """``manage.py`` on a fresh database; ``ask`` looks into it, and the ``relay`` runs when it was started."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._database = folder / "control.sqlite3"
        self._env = os.environ | {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{self._database}"}
        self._running: list[subprocess.Popen[bytes]] = []
        self.run("migrate", "-v0")

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """A command beside the test; whatever becomes of that, it ends with it."""
        self._running.append(subprocess.Popen([sys.executable, "manage.py", *words], env=self._env))
        return self._running[-1]

    def run(self, *words: str, seconds: float = 120) -> None:
        """A command that must succeed."""
        assert self.begin(*words).wait(seconds) == 0

    def shell(self, code: str, seconds: float = 120) -> None:
        """Python inside Django."""
        self.run("shell", "-v0", "-c", code, seconds=seconds)

    def start(self) -> None:
        """The relay."""
        self.relay = self.begin("relay")

    def restart(self) -> None:
        """Killed, and started again."""
        self.relay.kill()
        self.relay.wait()
        self.start()

    def stop(self) -> None:
        """It ends by itself when asked."""
        self.relay.send_signal(signal.SIGTERM)
        assert self.relay.wait(30) == 0

    def ask(self, query: str) -> list[Any]:
        """What the database holds now."""
        with sqlite3.connect(self._database, timeout=20) as rows:
            return rows.execute(query).fetchall()

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def relayed(tmp_path: Path, redis_url: str) -> Iterator[Relayed]:
    made = Relayed(tmp_path, redis_url)
    yield made
    made.end()
