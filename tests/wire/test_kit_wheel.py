"""The kit as a wheel in virtual environments that hold nothing else: the program of docs/kit.md on each broker."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from missioncontrol import wheel
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.signing import Ring
from services.kit.events.transport.base import Outgoing
from services.kit.events.transport.connect import connect
from tests.brokers import KINDS, MARKERS, Broker
from tests.fleet import ROOT
from tests.waiting import until

SECRET = "k" * 40
RING = Ring.of([("greeter", SECRET)])
VARIABLES = {"redis": "REDIS_URL", "rabbitmq": "AMQP_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS"}

Python = Callable[..., subprocess.CompletedProcess[str]]


def clean() -> dict[str, str]:
    """An environment that knows nothing of Mission Control."""
    ours = ("MC_", "DJANGO_", "PYTHON", "VIRTUAL_ENV", "REDIS_URL", "AMQP_URL", "KAFKA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Alone:
    """A virtual environment with the wheel, some of its extras, and what these need."""

    def __init__(self, folder: Path, made: Path, extras: str) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        self.python = str(folder / "bin" / "python")
        # What they need in turn is at the versions that everything else is tested with.
        pins = re.findall(r"^[\w.-]+==[^\s;\\]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
        (folder / "pins").write_text("\n".join(pins))
        if find_spec("uv"):
            tool = [sys.executable, "-m", "uv", "pip", "install", "--python", self.python]
        else:
            tool = [sys.executable, "-m", "pip", "--python", self.python, "install"]
        self._run(*tool, "-q", "-c", str(folder / "pins"), f"{made}[{extras}]" if extras else str(made))

    def _run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(argv, cwd=self.folder, env=clean(), capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def run(self, program: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of one string."""
        return self._run(self.python, "-c", program, check=check)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.build(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def alone(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), made, "redis,rabbitmq,kafka")


EVERY = """
import importlib, pkgutil, sys, missioncontrol_kit
for found in pkgutil.walk_packages(missioncontrol_kit.__path__, "missioncontrol_kit."):
    if found.name not in {leave_out}:
        importlib.import_module(found.name)
odd = {{"django", "services", "apps", "rest_framework"}} & {{name.partition(".")[0] for name in sys.modules}}
assert not odd, odd
print(len([name for name in sys.modules if name.startswith("missioncontrol_kit")]))
"""
SERVED = [
    f"missioncontrol_kit.{name}"
    for name in ("app", "auth", "client", "edge", "errors", "health", "published", "publishers", "telemetry")
]


def test_it_holds_all_of_the_kit_and_nothing_of_ours_besides(alone: Alone) -> None:
    assert int(alone.run(EVERY.format(leave_out=SERVED)).stdout) >= 30


def test_what_serves_http_comes_with_an_extra(made: Path, tmp_path: Path) -> None:
    served = Alone(tmp_path / "served", made, "service,redis,rabbitmq,kafka")
    served.run(EVERY.format(leave_out=[]))


def test_without_a_brokers_driver_it_says_which_is_missing(made: Path, tmp_path: Path) -> None:
    bare = Alone(tmp_path / "bare", made, "")
    program = "from missioncontrol_kit.events.transport.connect import connect; connect('kafka://127.0.0.1:9')"
    done = bare.run(program, check=False)
    assert done.returncode and "BrokerError" in done.stderr and "aiokafka isn't installed" in done.stderr
    done = bare.run("from missioncontrol_kit import env; env.home()", check=False)
    assert "MC_HOME is not set" in done.stderr


def brokers() -> list[Any]:
    return [
        pytest.param(kind, marks=getattr(pytest.mark, MARKERS[kind]) if kind in MARKERS else ()) for kind in VARIABLES
    ]


class Greeter:
    """The guide's program, letter by letter."""

    def __init__(self, alone: Alone, folder: Path, **env: str) -> None:
        guide = (ROOT / "docs" / "kit.md").read_text()
        (folder / "greeter.py").write_text(guide.partition("```python\n")[2].partition("```")[0])
        self.alone, self.folder, self.env = alone, folder, clean() | env
        self.output = folder / "said"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *names: str) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [self.alone.python, "greeter.py", *names], cwd=self.folder, env=self.env, stdout=output, stderr=output
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def greeted(self) -> list[str]:
        """In its own database: whatever was printed, this is what happened."""
        assert self.process is not None and self.process.poll() is None, self.output.read_text()
        return sorted(str(row[0]) for row in self.rows("SELECT name FROM greeted"))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if not (self.folder / "greeter.sqlite3").exists():
            return []
        connection = sqlite3.connect(self.folder / "greeter.sqlite3", timeout=10)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error)
            return []
        finally:
            connection.close()


@pytest.fixture(params=brokers())
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    started = KINDS[kind](tmp_path_factory.mktemp("broker"))
    started.start()
    yield started
    started.end()


@pytest.fixture
def greeter(alone: Alone, kind: str, broker: Broker, tmp_path: Path) -> Iterator[Greeter]:
    env = {"MC_BUS_DEFAULT": kind, VARIABLES[kind]: broker.url, "MC_BUS_KEYS": f"greeter={SECRET}"}
    made = Greeter(alone, tmp_path, **env)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_the_guides_program_publishes_and_consumes(greeter: Greeter, broker: Broker, kind: str) -> None:
    greeter.start("Ann", "Bob")
    until(lambda: greeter.greeted() == ["Ann", "Bob"], 40, what=greeter.output.read_text())
    assert set(greeter.output.read_text().splitlines()) == {"Hello, Ann", "Hello, Bob"}

    # Killed, it goes on where it was; stopped, it has finished what it had begun.
    assert greeter.stop(signal.SIGKILL) == -signal.SIGKILL
    greeter.start("Cleo")
    until(lambda: greeter.greeted() == ["Ann", "Bob", "Cleo"], 60, what=greeter.output.read_text())

    async def by_others() -> list[CloudEvent]:
        """What is on the broker, and something that nobody signed put there too."""
        transport = connect(broker.url)
        forged = CloudEvent("forged", "greeting.person.met", "greeter", 0.0, {"name": "Mallory"}, partition_key="Ann")
        true = RING.sign(CloudEvent("true", "greeting.person.met", "greeter", 0.0, {"name": "Dan"}), "greeter")
        assert await transport.publish([Outgoing(forged), Outgoing(true)]) == [None, None]
        reading = await transport.subscribe(["greeting.#"], "others", "one")
        found: list[CloudEvent] = []
        while len(found) < 5:
            found += [one.event for one in await reading.fetch(10, 5) if one.event is not None]
        await transport.close()
        return found

    found = asyncio.run(by_others())
    assert [one.id for one in found if RING.refusal(one)] == ["forged"]
    until(lambda: greeter.greeted() == ["Ann", "Bob", "Cleo", "Dan"], 30, what=greeter.output.read_text())
    until(lambda: greeter.rows("SELECT kind FROM parked") == [("forged",)], 10)
    assert greeter.stop() == 0
    assert greeter.rows("SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL") == [(0,)]
