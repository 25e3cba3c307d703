"""The launcher from outside: what it refuses, in a sentence, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.fleet import ROOT, Fleet, new_fleet
from tests.waiting import free_port, listening, until

pytestmark = pytest.mark.solo


@pytest.fixture
def own() -> Iterator[Fleet]:
    system = new_fleet()
    try:
        yield system
    finally:
        system.end()


def refused(system: Fleet, *, python: str = sys.executable, **env: str) -> str:
    """Run ``make run``, which must end by itself with a failure; its one line on stderr."""
    done = subprocess.run(
        ["make", "--no-print-directory", "run", f"PYTHON={python}"],
        cwd=ROOT,
        env=system.env | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1, done.stderr
    assert not system.left_behind()
    return lines[0]


def test_a_taken_port_is_named_with_its_variable(own: Fleet) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", own.ports["MC_NEXUS_PORT"]))
        holder.listen()
        said = refused(own)
    assert f"Port {own.ports['MC_NEXUS_PORT']} (MC_NEXUS_PORT) is taken" in said


def test_two_variables_with_one_port_are_both_named(own: Fleet) -> None:
    said = refused(own, MC_MINT_PORT=str(own.ports["MC_AEGIS_PORT"]))
    assert "MC_AEGIS_PORT and MC_MINT_PORT are both" in said


def test_a_port_that_is_no_number_is_named(own: Fleet) -> None:
    assert "MC_GATEWAY_PORT must be a whole number, not 'http'" in refused(own, MC_GATEWAY_PORT="http")


def test_an_unwritable_home_is_named(own: Fleet, tmp_path: Path) -> None:
    # Below a file nobody can make a folder, root neither.
    (tmp_path / "file").write_text("")
    said = refused(own, MC_HOME=str(tmp_path / "file" / "home"))
    assert f"MC_HOME is {tmp_path / 'file' / 'home'}, which can't be written" in said


def test_a_python_that_is_too_old_is_refused_in_words(own: Fleet, old_python: str) -> None:
    said = refused(own, python=old_python)
    assert said.startswith("Mission Control needs Python 3.11 or newer; ")
    assert "make run PYTHON=" in said


@pytest.fixture
def old_python(tmp_path: Path) -> str:
    """A Python older than 3.11 when this machine has one, else this one claiming to be 3.9."""
    for name in ("python3.10", "python3.9", "python3.8", "python3.6", "python2.7"):
        asked = subprocess.run(["sh", "-c", f"{name} --version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return name
    wrapper = tmp_path / "python3.9"
    code = "import runpy, sys; sys.hexversion = 0x030900F0; runpy.run_module('missioncontrol.launch', alter_sys=True)"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n')
    wrapper.chmod(0o700)
    return str(wrapper)


def test_no_python_at_all_is_said(own: Fleet) -> None:
    assert "found no python-that-is-not" in refused(own, python="python-that-is-not")


def test_a_dead_package_index_is_one_sentence(own: Fleet, tmp_path: Path) -> None:
    index = f"http://127.0.0.1:{free_port()}/simple"
    dead = {"PIP_INDEX_URL": index, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
    said = refused(own, MC_VENV=str(tmp_path / "venv"), PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0", **dead)
    assert "the package index can't be reached" in said
    assert str(own.home / "logs" / "install.log") in said


def test_with_nothing_running_ctl_says_so(own: Fleet) -> None:
    argv = [sys.executable, "-m", "missioncontrol.launch", "ctl", "status"]
    done = subprocess.run(argv, cwd=ROOT, env=own.env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"Mission Control: nothing runs in {own.home}: start it with make run, or say which one with MC_HOME."
    )


def test_a_second_run_in_one_home_is_refused_and_the_first_lives_on(fleet: Fleet) -> None:
    said = refused_beside(fleet)
    assert f"Mission Control already runs in {fleet.home} (process " in said
    assert "RUNNING" in fleet.ctl("status")


def refused_beside(fleet: Fleet) -> str:
    argv = [sys.executable, "-m", "missioncontrol.launch", "run"]
    done = subprocess.run(argv, cwd=ROOT, env=fleet.env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    return done.stderr


PARTS = "redis clickhouse collector worker beat relay aegis covenant nexus mint control gateway"


def states(fleet: Fleet) -> dict[str, str]:
    return {line.split()[0]: line.split()[1] for line in fleet.ctl("status").splitlines()}


def test_every_process_runs_and_secrets_are_for_the_owner_alone(fleet: Fleet) -> None:
    expected = dict.fromkeys(PARTS.split(), "RUNNING")
    until(lambda: states(fleet) == expected, 15, every=0.5, what="every process running for some seconds")
    for path in (fleet.home / "secrets").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert (fleet.home / "credentials.json").stat().st_mode & 0o077 == 0


def test_a_killed_part_is_started_again(fleet: Fleet) -> None:
    before = fleet.pid("mint")
    os.kill(before, signal.SIGKILL)
    until(lambda: fleet.pid("mint") not in {0, before}, 15, every=0.3, what="mint with a new process")
    until(lambda: listening(fleet.ports["MC_MINT_PORT"]), 15, what="mint listening")


def test_engines_listen_on_loopback_alone(fleet: Fleet) -> None:
    own = {fleet.pid("redis"), fleet.pid("clickhouse")}
    seen = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in own}
    assert seen == {"127.0.0.1"}


def test_engines_ask_strangers_on_this_machine_for_their_secrets(fleet: Fleet) -> None:
    with socket.create_connection(("127.0.0.1", fleet.ports["MC_REDIS_PORT"]), 5) as raw:
        raw.sendall(b"CONFIG GET dir\r\n")
        assert raw.recv(100).startswith(b"-NOAUTH")
    port = fleet.ports["MC_CLICKHOUSE_PORT"]
    answer = requests.post(f"http://127.0.0.1:{port}/", data="SELECT file('/etc/passwd')", timeout=5)
    assert answer.status_code == 401
    shown = b"".join(Path(f"/proc/{fleet.pid(name)}/cmdline").read_bytes() for name in PARTS.split())
    for path in (fleet.home / "secrets").iterdir():
        assert path.read_bytes().strip() not in shown, path
