"""The whole of Mission Control for tests: the real thing, started by its launcher on free ports in its own home.

``MC_TEST_FLEET=<MC_HOME of one that runs>`` uses that one instead, and leaves it as it is: fast while developing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from missioncontrol.launch.settings import PORTS
from missioncontrol.launch.supervise import tail
from services.kit.env import ENGINE_USER
from tests.waiting import free_ports

ROOT = Path(__file__).resolve().parent.parent
UP = "Mission Control is up"


class Fleet:
    """One Mission Control: where it listens, what opens it, and how to stop and start its parts."""

    def __init__(self, home: Path, ports: dict[str, int], extra: dict[str, str] | None = None) -> None:
        self.home, self.ports = home, ports
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MC_", "DJANGO_"))}
        # What a surrounding ``make test`` sets would change how a make inside of it speaks.
        for name in ("DATABASE_URL", "REDIS_URL", "CLICKHOUSE_URL", "CI", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            inherited.pop(name, None)
        self.env = inherited | {"MC_HOME": str(home), "MC_VENV": sys.prefix} | (extra or {})
        # A machine that runs tests is often a busy one.
        self.env |= {"MC_START_SECONDS": "150"}
        self.env |= {name: str(port) for name, port in ports.items()}
        self.output = home.parent / f"{home.name}.out"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pages(self) -> str:
        """The control process: pages, REST, admin."""
        return f"http://127.0.0.1:{self.ports['MC_CONTROL_PORT']}"

    @property
    def gateway(self) -> str:
        """Where clients call."""
        return f"http://127.0.0.1:{self.ports['MC_GATEWAY_PORT']}"

    @property
    def otlp(self) -> str:
        """The collector."""
        return f"http://127.0.0.1:{self.ports['MC_OTLP_HTTP_PORT']}"

    @property
    def clickhouse_url(self) -> str:
        """The embedded ClickHouse, with what opens it."""
        return f"http://{self._login('mc_clickhouse_password')}127.0.0.1:{self.ports['MC_CLICKHOUSE_PORT']}"

    @property
    def redis_url(self) -> str:
        """The embedded Redis, with what opens it."""
        return f"redis://{self._login('mc_redis_password')}127.0.0.1:{self.ports['MC_REDIS_PORT']}/0"

    def _login(self, secret: str) -> str:
        return f"{ENGINE_USER}:{(self.home / 'secrets' / secret).read_text().strip()}@"

    @property
    def credentials(self) -> dict[str, Any]:
        """What the first start wrote: admin, api_token, demo_api_key, demo_client."""
        answer: dict[str, Any] = json.loads((self.home / "credentials.json").read_text())
        return answer

    @property
    def nexus_key(self) -> str:
        """The API key by which nexus calls other services."""
        return (self.home / "secrets" / "nexus_api_key").read_text().strip()

    def service(self, name: str) -> str:
        """A backend service's own address, past the gateway."""
        return f"http://127.0.0.1:{self.ports[f'MC_{name.upper()}_PORT']}"

    def ctl(self, *words: str) -> str:
        """``make ctl``: what it printed; AssertionError when it failed."""
        done = self._ctl(*words)
        assert done.returncode == 0, f"ctl {words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def pid(self, name: str) -> int:
        """The process id of one part; 0 while it doesn't run."""
        said = self._ctl("pid", name).stdout.strip()
        return int(said) if said.isdigit() else 0

    def _ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "missioncontrol.launch", "ctl", *words]
        return subprocess.run(argv, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=60, check=False)

    def start(self) -> None:
        """Start and return when the launcher says that everything is up."""
        self.launch()
        assert self.process is not None
        while UP not in self.said():
            try:
                self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the launcher ended with {self.process.returncode}:\n{self.said()}")

    def launch(self) -> None:
        """Start the launcher in a session of its own, without waiting for it."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "missioncontrol.launch", "run"],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        """What the launcher has printed."""
        return self.output.read_text(errors="replace")

    def stop(self, number: int = signal.SIGINT, seconds: float = 180) -> int:
        """Stop it as a person does, and wait; the launcher's exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def left_behind(self) -> list[str]:
        """Every live process whose environment names this home, wherever it hides."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("MC_HOME") == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
            except psutil.Error:
                continue
        return found

    def logs(self, lines: int = 8) -> str:
        """The last lines of every log, for a failure's report."""
        parts = [f"== {path.name}\n{tail(path, lines)}" for path in sorted((self.home / "logs").glob("*.log"))]
        return "\n".join([f"== launcher\n{self.said() if self.output.exists() else ''}", *parts])

    def end(self) -> None:
        """Whatever happened: nothing of it may live on."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        # One that is killed may be started again by one that is killed after it.
        while any(self._kill(process) for process in psutil.process_iter()):
            pass
        self.output.unlink(missing_ok=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def _kill(self, process: psutil.Process) -> bool:
        """Whether it was alive and of this home; now it is gone."""
        try:
            if process.environ().get("MC_HOME") != str(self.home):
                return False
            process.kill()
            process.wait(10)
        except (psutil.Error, OSError):
            return False
        return True


def new_fleet(folder: Path | None = None, **extra: str) -> Fleet:
    """A Mission Control that isn't started yet, on free ports, in a temporary home (in ``folder``, when given)."""
    home = Path(tempfile.mkdtemp(prefix="mc-fleet-", dir=folder)).resolve()
    return Fleet(home, dict(zip(PORTS, free_ports(len(PORTS)), strict=True)), extra)


def running_fleet(home: Path) -> Fleet:
    """The Mission Control that runs in ``home``."""
    addresses = json.loads((home / "run" / "addresses.json").read_text())
    return Fleet(home, {name: addresses[name] for name in PORTS if name in addresses})


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The whole system, one for all tests of the session. Whoever stops a part starts it again."""
    given = os.environ.get("MC_TEST_FLEET")
    if given:
        yield running_fleet(Path(given).resolve())
        return
    system = new_fleet()
    try:
        system.start()
        yield system
        code = system.stop()
        assert code == 0, f"the launcher ended with {code}:\n{system.said()}"
        assert not system.left_behind(), system.left_behind()
    finally:
        system.end()
