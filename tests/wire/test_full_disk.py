"""The disk under MC_HOME is full: the gateway serves, writers refuse and say why, and all comes back with room.

The whole system on a small file system of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests

from tests.disk import SmallDisk
from tests.fleet import ROOT, Fleet, new_fleet
from tests.waiting import until

pytestmark = [pytest.mark.solo, pytest.mark.disk, pytest.mark.timeout(600)]

MIB = 1024 * 1024
PARTS = set("redis clickhouse collector worker beat relay aegis covenant nexus mint control gateway".split())  # noqa: SIM905


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path_factory.mktemp("disk"), 600) as found:
        yield found


@pytest.fixture(scope="module")
def system(disk: SmallDisk) -> Iterator[Fleet]:
    found = new_fleet(disk.folder)
    try:
        found.start()
        yield found
    finally:
        disk.clear()
        found.end()


class Reader:
    """A client that reads through the gateway all the while; each answer that is not 200 is kept."""

    def __init__(self, fleet: Fleet) -> None:
        self.url, self.answered, self.wrong = f"{fleet.gateway}/aegis/.well-known/jwks.json", 0, list[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def more(self, count: int = 100) -> None:
        target = self.answered + count
        until(lambda: self.answered >= target or self.wrong, 90, what="more answers")

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                answer = requests.get(self.url, timeout=20)
            except requests.RequestException as error:
                self.wrong.append(repr(error))
            else:
                self.answered += 1
                if answer.status_code != 200:
                    self.wrong.append(f"{answer.status_code} {answer.text[:300]}")


def pay(fleet: Fleet) -> requests.Response:
    """One entry in the ledger, asked for through the gateway."""
    key = {"X-API-Key": fleet.credentials["demo_api_key"]}
    return requests.post(
        f"{fleet.gateway}/nexus/v1/intents", json={"text": "send 1 AZR to thandi"}, headers=key, timeout=30
    )


def rename(fleet: Fleet, title: str) -> requests.Response:
    """One change of configuration by REST."""
    token = {"Authorization": f"Token {fleet.credentials['api_token']}"}
    return requests.patch(f"{fleet.pages}/api/v1/services/mint", json={"title": title}, headers=token, timeout=30)


def states(fleet: Fleet) -> dict[str, str]:
    return {line.split()[0]: line.split()[1] for line in fleet.ctl("status").splitlines()}


def write(fleet: Fleet) -> Any:
    with redis.Redis.from_url(fleet.redis_url) as client:
        return client.set("mc:test:full", "x")


def ready(fleet: Fleet) -> bool:
    """Every process with a port says that it can do its job."""
    ports = {name: port for name, port in fleet.ports.items() if name != "MC_REDIS_PORT"}
    paths = {name: "/-/ready" if name == "MC_GATEWAY_PORT" else "/ready" for name in ports}
    return all(requests.get(f"http://127.0.0.1:{ports[name]}{paths[name]}", timeout=5).ok for name in ports)


def test_a_full_disk_costs_writes_alone_and_all_comes_back_with_room(system: Fleet, disk: SmallDisk) -> None:
    assert pay(system).status_code == 200
    parent = system.pid("gateway")
    with Reader(system) as reader:
        reader.more(20)
        disk.fill()
        # Logs, the append-only file and the databases meet the end of the disk while this goes on.
        until(lambda: redis_refuses(system), 60, every=0.5, what="Redis refusing to write")
        refused = pay(system)
        assert refused.status_code == 503, refused.text
        assert refused.headers["Content-Type"] == "application/problem+json"
        changed = rename(system, "Mint on a full disk")
        assert changed.status_code == 503, changed.text
        assert requests.get(f"{system.pages}/health", timeout=20).ok
        # Each leaves lines in logs, until these meet the end of the disk as well.
        assert {pay(system).status_code for _ in range(80)} <= {429, 503}
        reader.more(200)
        # Also a gateway that must begin anew now does.
        os.kill(parent, signal.SIGKILL)
        until(lambda: system.pid("gateway") not in {0, parent}, 60, every=0.5, what="a new parent")
        reader.more(400)
        assert reader.wrong == []
        assert system.process is not None
        assert system.process.poll() is None, "the launcher and its supervisor live"

        disk.clear()
        until(lambda: write(system), 60, every=0.5, what="Redis writing again")
        until(lambda: set(states(system).values()) == {"RUNNING"}, 120, every=1, what="every process running")
        until(lambda: ready(system), 120, every=1, what="every process ready")
        until(lambda: pay(system).status_code == 200, 60, every=1, what="the ledger taking entries")
        assert rename(system, "Mint again").ok
        reader.more()
    assert reader.wrong == []
    assert set(states(system)) == PARTS


def redis_refuses(fleet: Fleet) -> bool:
    try:
        write(fleet)
    except redis.ResponseError as error:
        return "MISCONF" in str(error)
    return False


def test_a_start_on_a_full_disk_is_one_sentence(disk: SmallDisk, system: Fleet) -> None:
    disk.fill(leave=MIB)
    own = new_fleet(disk.folder)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "missioncontrol.launch", "run"],
            cwd=ROOT, env=own.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert f"The disk that holds {own.home} is full (" in done.stderr
    finally:
        disk.clear()
        own.end()


LOG = """
import pathlib, sys
from supervisor import loggers
from missioncontrol.launch import daemon

daemon.lose_no_more_than_a_line()
path = pathlib.Path(sys.argv[1])
log = loggers.getLogger(loggers.LevelsByName.INFO)
loggers.handle_file(log, str(path), "%(message)s", rotating=True, maxbytes=100_000, backups=1)
print("ready", flush=True)
for line in sys.stdin:
    log.info("x" * 5000 + chr(10))
    print("written", flush=True)
"""


def test_a_log_outlives_a_full_disk_and_says_what_that_cost(disk: SmallDisk) -> None:
    """What the supervisor writes for its children: fifty lines meet the end of the disk, and the turning over too."""
    folder = disk.folder / "log"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", LOG, str(folder / "child.log")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def write(count: int) -> None:
        for _ in range(count):
            process.stdin.write("more\n")
            process.stdin.flush()
            assert process.stdout.readline() == "written\n"

    with process:
        assert process.stdout.readline() == "ready\n"
        disk.fill()
        write(50)
        disk.clear()
        write(10)
        process.stdin.close()
        assert process.wait(20) == 0
    kept = "".join(path.read_text() for path in folder.iterdir())
    assert re.search(r"\(the disk was full: \d+ writes to this log failed\)", kept)
    assert kept.count("x" * 5000) >= 10
