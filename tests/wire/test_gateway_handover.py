"""The gateway's parent begins anew, or dies, under load: on a socket that stays open no request fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from apps.gateway.plane.processes import listen
from tests.callers import Callers
from tests.waiting import until
from tests.wire.gateway import ROOT, Gateway, running

pytestmark = pytest.mark.solo


class Clients(Callers):
    """Requests without pause."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(6)
        self.gateway = gateway

    def call(self, keep: bool) -> None:
        connection = None
        while not self.over():
            try:
                connection = connection or self.gateway.connect(20)
                connection.send("GET /open/x HTTP/1.1", "Host: a")
                answer = connection.read()
            except (OSError, EOFError) as error:
                self.note(repr(error), answered=False)
                connection = None
                continue
            self.note("" if answer.status == 200 else str(answer))
            if not keep or answer.fields.get("connection") == "close":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    with running(tmp_path, redis_url, workers=2) as found:
        until(lambda: found.acknowledged() == 2, 20, what="both workers with their configuration")
        yield found


@pytest.fixture
def handed(tmp_path: Path, redis_url: str) -> Iterator[Any]:
    """A gateway whose socket somebody else holds, as the launcher's supervisor and systemd do."""
    with running(tmp_path, redis_url, workers=2) as found:
        assert found.process is not None
        found.process.terminate()
        found.process.wait(15)
        listener = listen("127.0.0.1", found.port)
        started: list[subprocess.Popen[bytes]] = []

        def start() -> subprocess.Popen[bytes]:
            command = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
            argv = ["bash", "-c", command, str(listener.fileno()), sys.executable, "-m", "missioncontrol.gateway"]
            with (tmp_path / "gateway.log").open("ab") as log:
                process = subprocess.Popen(
                    argv,
                    cwd=ROOT,
                    env=os.environ | found.environment(),
                    stdout=log,
                    stderr=log,
                    pass_fds=[listener.fileno()],
                )
            started.append(process)
            return process

        yield found, start
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait(15)
        listener.close()


def workers(parent: int) -> set[int]:
    return {child.pid for child in psutil.Process(parent).children() if alive(child.pid)}


def gone(pids: set[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_beginning_anew_under_load_fails_no_request(gateway: Gateway) -> None:
    assert gateway.process is not None
    with Clients(gateway) as load:
        for _ in range(2):
            old = workers(gateway.process.pid)
            gateway.process.send_signal(signal.SIGUSR2)
            until(lambda old=old: gone(old), 40, what="the old workers gone")
            load.more()
    assert load.wrong == []
    assert gateway.process.poll() is None
    assert len(workers(gateway.process.pid)) == 2
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0


def test_what_could_not_begin_anew_is_left_as_it_is(tmp_path: Path, redis_url: str) -> None:
    """The settings of now don't hold: a secret's file is gone."""
    pepper = tmp_path / "pepper"
    pepper.write_text("pepper-for-tests")
    with running(tmp_path, redis_url, workers=2, MC_KEY_PEPPER="", MC_KEY_PEPPER_FILE=str(pepper)) as gateway:
        assert gateway.process is not None
        before = workers(gateway.process.pid)
        pepper.unlink()
        gateway.process.send_signal(signal.SIGUSR2)
        until(lambda: "could not begin anew" in gateway.logs(), 20, what="the reason in the log")
        assert gateway.get("/open/x").status == 200
        assert workers(gateway.process.pid) == before


def test_workers_serve_on_when_their_parent_is_killed_and_give_way_to_the_next(handed: Any) -> None:
    gateway, start = handed
    first = start()
    until(lambda: gateway.get("/-/ready")[0] == 200, 20, what="ready")
    until(lambda: len(workers(first.pid)) == 2, 10, what="two workers")
    with Clients(gateway) as load:
        orphans = workers(first.pid)
        first.kill()
        first.wait(10)
        load.more(400)
        assert not gone(orphans)
        second = start()
        until(lambda: gone(orphans), 40, what="the orphans gone")
        load.more()
    assert load.wrong == []
    assert len(workers(second.pid)) == 2


def test_a_killed_worker_takes_nothing_but_its_own_along(gateway: Gateway) -> None:
    """And a parent killed where nobody keeps the socket takes its workers along, so that the next can listen."""
    assert gateway.process is not None
    pids = workers(gateway.process.pid)
    os.kill(min(pids), signal.SIGKILL)
    until(lambda: len(workers(gateway.process.pid) - pids) == 1, 15, what="another worker")
    pids = workers(gateway.process.pid)
    gateway.process.kill()
    until(lambda: gone(pids), 20, what="the workers gone")
