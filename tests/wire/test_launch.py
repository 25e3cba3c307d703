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

from tests.callers import Callers
from tests.fleet import ROOT, Fleet, new_fleet
from tests.waiting import free_port, listening, until

pytestmark = [pytest.mark.solo, pytest.mark.timeout(400)]


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


def test_nothing_listens_beyond_this_machine_unless_it_is_told_to(fleet: Fleet) -> None:
    assert "MC_HOST" not in fleet.env
    own = {fleet.pid(name) for name in PARTS.split()}
    own |= {child.pid for pid in own for child in psutil.Process(pid).children(recursive=True)}
    found = [c.laddr for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in own]
    assert {address.ip for address in found} == {"127.0.0.1"}
    assert {address.port for address in found} == set(fleet.ports.values())


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


class Clients(Callers):
    """Requests at a steady pace."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(4, pause=0.05)
        self.url = f"{fleet.gateway}/aegis/.well-known/jwks.json"

    def call(self, keep: bool) -> None:
        with requests.Session() as session:
            while not self.over():
                try:
                    answer = session.get(self.url, timeout=20, headers={} if keep else {"Connection": "close"})
                except requests.RequestException as error:
                    self.note(repr(error), answered=False)
                    continue
                self.note("" if answer.status_code == 200 else f"{answer.status_code} {answer.text}")


def test_restarting_the_gateway_under_load_fails_no_request(fleet: Fleet) -> None:
    before = gateway_workers(fleet)
    with Clients(fleet) as load:
        said = fleet.ctl("restart", "gateway")
        assert "begun anew" in said
        until(lambda: not before & gateway_workers(fleet), 40, what="the old workers gone")
        load.more()
    assert load.wrong == []


def test_killing_the_gateways_parent_under_load_fails_no_request(fleet: Fleet) -> None:
    parent, before = fleet.pid("gateway"), gateway_workers(fleet)
    with Clients(fleet) as load:
        os.kill(parent, signal.SIGKILL)
        until(lambda: fleet.pid("gateway") not in {0, parent}, 30, every=0.3, what="a new parent")
        until(lambda: not before & gateway_workers(fleet), 60, what="the orphans gone")
        load.more()
    assert load.wrong == []
    assert len(gateway_workers(fleet)) == 2


def gateway_workers(fleet: Fleet) -> set[int]:
    """Every process of the gateway but its parent, whoever their parent is."""
    found, parent = set(), fleet.pid("gateway")
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("MC_HOME") == str(fleet.home) and process.status() != psutil.STATUS_ZOMBIE
            if ours and "missioncontrol.gateway" in process.cmdline() and process.pid != parent:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_stopped_gateway_refuses_and_does_not_keep_clients_waiting(fleet: Fleet) -> None:
    fleet.ctl("stop", "gateway")
    try:
        assert not listening(fleet.ports["MC_GATEWAY_PORT"])
    finally:
        fleet.ctl("start", "gateway")
    until(lambda: requests.get(f"{fleet.gateway}/-/ready", timeout=5).ok, 30, what="the gateway ready")


def test_the_supervisors_socket_and_its_configuration_are_for_the_owner_alone(fleet: Fleet) -> None:
    for path in (fleet.home / "run").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
