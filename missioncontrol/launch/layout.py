"""The folders and secrets under ``MC_HOME``, and the lock that lets one Mission Control live in it.

Owns names and file modes. Knows nothing of what the processes write there.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from missioncontrol.launch.report import Stop

FOLDERS = ("secrets", "redis", "clickhouse", "gateway", "services", "logs", "run", "static")
SECRETS = (
    "django_secret_key",
    "mc_key_pepper",
    "mc_fleet_token",
    "mc_wire_key",
    "mc_revision_key",
    "mc_redis_password",
    "mc_clickhouse_password",
)
"""Random secrets that the first start makes; those that belong to seeded data are made by ``manage.py seed``."""

PUBLISHERS = ("mission-control", "aegis", "covenant", "nexus", "mint")
"""Sources of events, each of which has a key of its own in ``secrets/mc_bus_keys`` (services.kit.events.keys)."""

ROOM = 64 * 1024 * 1024
"""Bytes that must be free at a start."""

SOCKET_LIMIT = 103
"""Bytes of a unix socket's path that every system takes (Linux 107, macOS 103)."""
SOCKET_SUFFIX = 9
"""The supervisor binds ``<path>.<pid>`` first and links it."""


def make_folders(home: Path) -> None:
    """Make ``home`` and its folders, for the owner alone; Stop when they can't be written."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in FOLDERS:
            (home / name).mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=home / "run"):
            pass
    except OSError as error:
        raise Stop(
            f"MC_HOME is {home}, which can't be written ({(error.strerror or str(error)).lower()}): "
            "set MC_HOME to a folder that can."
        ) from None


def check_room(home: Path) -> None:
    """Stop when the disk under ``home`` has no room for a start: databases, logs and the engines' first files."""
    free = shutil.disk_usage(home).free
    if free < ROOM:
        raise Stop(
            f"The disk that holds {home} is full ({free >> 20} MB free, {ROOM >> 20} are needed): make room first."
        )


def make_secrets(home: Path) -> list[str]:
    """Write each missing secret with mode 0600; an existing one is never touched. Returns the names made."""
    made = []
    for name in SECRETS:
        path = home / "secrets" / name
        if path.exists():
            continue
        # Written aside and linked into place: a kill in between leaves no half a secret, and a
        # second start at the same moment can't replace what the first one already reads.
        aside = path.with_name(f".{name}.{os.getpid()}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
            made.append(name)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return made


def make_bus_keys(home: Path) -> list[str]:
    """Give a key to each publisher that has none; what the file holds stays. Returns the publishers."""
    path = home / "secrets" / "mc_bus_keys"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {line.partition("=")[0] for line in lines}
    made = [name for name in PUBLISHERS if name not in known]
    if made:
        lines += [f"{name}={secrets.token_urlsafe(48)}" for name in made]
        write_private(path, "".join(f"{line}\n" for line in lines))
    return made


class Lock:
    """One Mission Control per home. The descriptor is handed to the supervisor, so that the lock
    lasts while any part of the run lives, also when the launcher was killed."""

    def __init__(self, home: Path) -> None:
        self.path = home / "run" / "lock"
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self.path.read_text().strip()
            os.close(self.descriptor)
            whose = f" (process {holder})" if holder else ""
            raise Stop(
                f"Mission Control already runs in {home}{whose}: stop it there first, "
                "or set MC_HOME and the ports for a second one."
            ) from None
        os.ftruncate(self.descriptor, 0)
        os.write(self.descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Let go of this process's hold."""
        os.close(self.descriptor)


def running(home: Path) -> bool:
    """Does some Mission Control hold the lock of ``home``?"""
    try:
        descriptor = os.open(home / "run" / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def supervisor_socket(home: Path) -> Path:
    """Where the supervisor listens: under ``home`` when the path is short enough, else in a folder of its own."""
    path = home / "run" / "supervisor.sock"
    if len(os.fsencode(path)) + SOCKET_SUFFIX <= SOCKET_LIMIT:
        return path
    # Not in TMPDIR, which may be as long as the home.
    folder = tempfile.mkdtemp(prefix="mc-", dir="/tmp")
    return Path(folder) / "supervisor.sock"


def remove_socket(home: Path, path: Path) -> None:
    """Take away what ``supervisor_socket`` made outside ``home``."""
    if home not in path.parents:
        shutil.rmtree(path.parent, ignore_errors=True)


def redis_config_path(home: Path) -> Path:
    """The embedded Redis's generated configuration."""
    return home / "run" / "redis.conf"


def write_private(path: Path, text: str) -> None:
    """Write a file that the owner alone may read; whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def config_path(home: Path) -> Path:
    """The generated supervisor configuration."""
    return home / "run" / "supervisord.conf"


def read_addresses(home: Path) -> dict[str, int]:
    """The ports of the run in ``home``, by their variables; empty when there is none."""
    try:
        said = json.loads((home / "run" / "addresses.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: port for name, port in said.items() if isinstance(port, int)}


def write_addresses(home: Path, host: str, ports: Mapping[str, int]) -> None:
    """Leave word of where this run listens, for whoever knows only its home: host and ports by their variables."""
    (home / "run" / "addresses.json").write_text(json.dumps({"MC_HOST": host, **ports}, indent=2) + "\n")
