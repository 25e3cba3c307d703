"""Has anything changed since the last preparation? A digest over all it depends on, kept in ``MC_HOME/run``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from missioncontrol.launch.settings import Settings

FOLDERS = ("apps", "missioncontrol", "services", "static")
"""What migrations, static files, schemas and the seed are made from."""

VARIABLES = ("AEGIS_ISSUER", "CLICKHOUSE_URL", "DATABASE_URL", "MC_GATEWAY_URL", "MC_HOST", "REDIS_URL")


def digest(settings: Settings) -> str:
    """The digest now; empty when preparation must run in any case.

    A database server is one: it may have been emptied or restored since, which only migrating tells.
    """
    database = settings.home / "control.sqlite3"
    made = (database, settings.home / "credentials.json", settings.home / "static" / "staticfiles.json")
    if os.environ.get("DATABASE_URL") or not all(path.exists() for path in made):
        return ""
    if not _token_opens(database, settings.home / "credentials.json"):
        return ""
    identity = database.stat()
    parts = [f"{identity.st_dev}:{identity.st_ino}", str(settings.root), *_installed(settings.venv)]
    parts += [f"{name}={os.environ.get(name, '')}" for name in VARIABLES]
    parts += [f"{name}={port}" for name, port in settings.ports.items()]
    parts += [line for folder in FOLDERS for line in _files(settings.root / folder)]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _token_opens(database: Path, credentials: Path) -> bool:
    """Does the token of ``credentials.json`` still open the API? It ends at its time, by hand or with the
    password; the seed then makes another. A database that can't be asked is one to prepare."""
    try:
        token = str(json.loads(credentials.read_text()).get("api_token", ""))
        with contextlib.closing(sqlite3.connect(database, timeout=1)) as connection:
            found = connection.execute(
                "SELECT 1 FROM people_apitoken WHERE digest = ? AND ended_at IS NULL AND expires_at > ?",
                (hashlib.sha256(token.encode()).hexdigest(), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"),
            )
            return found.fetchone() is not None
    except (OSError, ValueError, AttributeError, sqlite3.Error):
        return False


def current(settings: Settings) -> bool:
    """Nothing has changed since ``write``."""
    now = digest(settings)
    try:
        return bool(now) and _path(settings).read_text() == now
    except OSError:
        return False


def write(settings: Settings) -> None:
    """Remember that preparation has run for what is there now."""
    path = _path(settings)
    aside = path.with_suffix(".new")
    aside.write_text(digest(settings))
    aside.replace(path)


def _path(settings: Settings) -> Path:
    return settings.home / "run" / "prepared"


def _installed(venv: Path) -> Iterator[str]:
    yield from (path.read_text() for path in sorted(venv.glob(".installed-*requirements")))


def _files(folder: Path) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(where, name)
            facts = path.stat()
            yield f"{path}:{facts.st_size}:{facts.st_mtime_ns}"
