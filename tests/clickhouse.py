"""Start the embedded ClickHouse and the collector for a test: real processes, free ports, own folders."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from services.kit.env import ENGINE_USER
from tests.waiting import free_port, until

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "fleet-token-of-this-test"


class _Process:
    """One of our processes: started, waited for, and ended at the latest with the test."""

    def __init__(self, module: str, home: Path, environment: dict[str, str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._module = module
        self._home = home
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)

    def start(self, ready: str = "/ready") -> None:
        with (self._home / f"{self._module.rpartition('.')[2]}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                cwd=ROOT,
                env=os.environ | {"MC_HOME": str(self._home)} | self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            until(lambda: answers(f"http://127.0.0.1:{self.port}{ready}"), 60, what=f"{self._module} {ready}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL the whole process group, as a crash would."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        """SIGTERM, and its exit status once it has drained."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> _Process:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


class Engine(_Process):
    """``python -m missioncontrol.clickhouse``."""

    def __init__(self, home: Path, port: int | None = None, **environment: str) -> None:
        port = port or free_port()
        self.home, self.password = home, secrets.token_urlsafe(16)
        settings = {"MC_CLICKHOUSE_PORT": str(port), "MC_CLICKHOUSE_PASSWORD": self.password}
        super().__init__("missioncontrol.clickhouse", home, settings | environment, port)
        self.address = self.url
        """Without what opens it."""
        self.url = f"http://{ENGINE_USER}:{self.password}@127.0.0.1:{port}"

    def query(self, sql: str, database: str = "default") -> str:
        """The answer as tab-separated text."""
        return ask(f"{self.url}/?database={database}", sql)


class CollectorProcess(_Process):
    """``python -m missioncontrol.collector`` over the ClickHouse at ``clickhouse_url``."""

    def __init__(self, home: Path, clickhouse_url: str, database: str = "mission", **environment: str) -> None:
        port = free_port()
        settings = {
            "MC_OTLP_HTTP_PORT": str(port),
            "CLICKHOUSE_URL": clickhouse_url,
            "CLICKHOUSE_DATABASE": database,
            "MC_FLEET_TOKEN": TOKEN,
        }
        super().__init__("missioncontrol.collector", home, settings | environment, port)
        self.database = database


def ask(url: str, sql: str) -> str:
    """What the ClickHouse at ``url`` (user and password in it) says to ``sql``, as tab-separated text."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(address, data=sql.encode())
    request.add_header("X-ClickHouse-User", user)
    request.add_header("X-ClickHouse-Key", password)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode().strip())


def answers(url: str) -> bool:
    """Does ``url`` answer 2xx?"""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(200 <= answer.status < 300)
    except urllib.error.HTTPError:
        return False
