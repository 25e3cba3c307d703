"""One control process on a database, Redis and home of its own, without the rest of the system."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import requests

from missioncontrol.launch.layout import SECRETS
from tests.waiting import free_port, until

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Control:
    """Where it listens and how to start and stop it. ClickHouse and the collector are away."""

    port: int
    env: dict[str, str]
    viewer: str = ""
    nobody: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and return when it is ready."""
        argv = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port), "-v", "0"]
        argv.append("missioncontrol.asgi:application")
        self.process = subprocess.Popen(argv, cwd=ROOT, env=self.env, stderr=subprocess.DEVNULL)
        until(self.ready, 90, what="control")

    def ready(self) -> bool:
        """Does it say that it can do its job?"""
        return requests.get(f"{self.url}/ready", timeout=10).status_code == 200

    def stop(self) -> int:
        """Ask it to stop, and wait; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def run(self, *words: str, text: str | None = None) -> str:
        """What ``manage.py`` printed; ``text`` is its standard input."""
        argv = [sys.executable, "manage.py", *words]
        done = subprocess.run(argv, cwd=ROOT, env=self.env, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request, on a connection of its own, that follows no redirect."""
        return requests.request(method, self.url + path, timeout=60, allow_redirects=False, **options)

    @asynccontextmanager
    async def connect(
        self, query: str = "", *, session: str | None = None, origin: str | None = None
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A browser's socket on the live feed."""
        cookie = f"mc_session={self.viewer if session is None else session}"
        headers = {"Cookie": cookie, "Origin": self.url if origin is None else origin}
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{self.url}/ws/live{query}", headers=headers, max_msg_size=0) as ws,
        ):
            yield ws


@contextmanager
def controlled(home: Path, redis_url: str, **extra: str) -> Iterator[Control]:
    """A control process that isn't started yet, on a migrated database; ``extra`` are variables of its own."""
    (home / "static").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MC_", "DATABASE_"))}
    env |= {
        "MC_HOME": str(home),
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": f"http://127.0.0.1:{free_port()}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }
    env |= {name: secrets.token_hex(32) for name in map(str.upper, SECRETS)}
    made = Control(free_port(), env | extra)
    made.run("migrate", "-v0")
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()
