"""The system's packages that tests and benchmarks want: installed where we may, and said where we may not."""

from __future__ import annotations

import os
import shutil
import subprocess

from missioncontrol.launch.report import Report

BENCH = {"nginx": "nginx", "wrk": "wrk", "haproxy": "haproxy", "h2load": "nghttp2-client"}
"""The program that a benchmark runs, and Debian's package that holds it."""


def lacking(programs: dict[str, str]) -> list[str]:
    """The packages whose program isn't here (servers live in ``sbin``, which not every PATH names)."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    return [package for program, package in programs.items() if not shutil.which(program, path=path)]


def install(packages: list[str], report: Report) -> bool:
    """Install ``packages`` by apt when this user may; False, having said why, when it could not be done."""
    if not packages:
        return True
    listed = ", ".join(packages)
    become = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get"):
        report.done(f"not installed, for this system has no apt-get: {listed}")
        return False
    if become and (not shutil.which("sudo") or _quietly([*become, "true"]).returncode):
        report.done(f"not installed, for this user may not: {listed}")
        return False
    report.note(f"installing {listed}", every=0)
    apt = [*become, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    _quietly([*apt, "update"])
    done = _quietly([*apt, "install", "--no-install-recommends", *packages])
    if done.returncode:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "apt-get said nothing")
        report.done(f"not installed ({why.strip()[:160]}): {listed}")
        return False
    report.done(f"installed {listed}")
    return True


def _quietly(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
