"""P8: how quickly a warm ``make run`` is ready, and what the whole of it costs while nobody asks for anything.

Runs the real system in a temporary home on free ports, twice: the first start is the cold one and is
not timed. Processor time and memory are the kernel's own figures over every process of the run:
user plus system time from /proc/PID/stat, and proportional set size (shared pages counted once,
divided among their users) from /proc/PID/smaps_rollup.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Falsified, Figure
from missioncontrol.launch.settings import PORTS
from missioncontrol.launch.supervise import session_members
from services.kit.env import ROOT
from tests.waiting import free_ports

SETTLE = 8.0
"""Seconds between ready and the measurement: first exports and probes are over."""
WINDOW = 20.0
"""Seconds over which idle processor time is taken."""
UP = "Mission Control is up"


def run() -> list[Figure]:
    """Start cold, stop, start warm (timed), watch it idle (measured), stop."""
    home = Path(tempfile.mkdtemp(prefix="mc-bench-")).resolve()
    env = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    env |= {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    env |= {"MC_HOME": str(home), "MC_VENV": sys.prefix}
    try:
        launcher, _ = _start(env, home)
        _stop(launcher)
        launcher, warm = _start(env, home)
        try:
            time.sleep(SETTLE)
            cores, mebibytes, worst = _idle(launcher)
        finally:
            _stop(launcher)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return [
        _figure("P8 start", "warm make run until every process is ready", warm, "s", 10, 5, ""),
        _figure("P8 idle", "processor while idle, all processes, of one core", cores * 100, "%", 8, 3, worst),
        _figure("P8 memory", "memory of all processes (PSS)", mebibytes, "MiB", 1536, 1024, ""),
    ]


def _figure(name: str, what: str, ours: float, unit: str, must: float, aim: float, note: str) -> Figure:
    return Figure(name, what, ours, unit, {}, None, must, aim, "lower", note)


def _start(env: dict[str, str], home: Path) -> tuple[subprocess.Popen[bytes], float]:
    """The launcher, and the seconds until it said that all is up."""
    said = home / "bench.out"
    with said.open("wb") as output:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "missioncontrol.launch", "run"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    began = time.monotonic()
    while UP not in said.read_text(errors="replace"):
        if launcher.poll() is not None:
            raise Falsified(f"make run ended with {launcher.returncode}:\n{said.read_text(errors='replace')}")
        time.sleep(0.02)
    return launcher, time.monotonic() - began


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    if launcher.poll() is None:
        launcher.send_signal(signal.SIGINT)
    if launcher.wait(90) != 0:
        raise Falsified(f"make run ended with {launcher.returncode} when it was stopped.")


def _idle(launcher: subprocess.Popen[bytes]) -> tuple[float, float, str]:
    """Cores used over the window, MiB held, and who used most."""
    before = {pid: _cpu_seconds(pid) for pid in _tree(launcher.pid)}
    began = time.monotonic()
    time.sleep(WINDOW)
    pids = _tree(launcher.pid)
    passed = time.monotonic() - began
    if set(before) - set(pids):
        raise Falsified("A process ended while it should have been idle.")
    # Whoever was born in the window spent all its time in it.
    used = {pid: _cpu_seconds(pid) - before.get(pid, 0.0) for pid in pids}
    most = sorted(used, key=lambda pid: used[pid], reverse=True)[:3]
    worst = "most: " + ", ".join(f"{_name(pid)} {used[pid] / passed:.1%}" for pid in most)
    return sum(used.values()) / passed, sum(_pss_kib(pid) for pid in pids) / 1024, worst


def _tree(launcher: int) -> list[int]:
    """Every process of the run: the launcher's session and that of the supervisor it started."""
    members = session_members(launcher)
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted({*members, *(pid for child in children for pid in session_members(int(child)))})


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_kib(pid: int) -> int:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    telling = [word for word in words[1:] if word and not word.startswith("-")]
    return telling[0].removeprefix("missioncontrol.").removeprefix("services.") if telling else Path(words[0]).name
