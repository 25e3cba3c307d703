"""Read ``DATABASE_URL``: SQLite in WAL mode for one machine, PostgreSQL at scale.

SQLite runs with ``synchronous=FULL``. In WAL mode NORMAL leaves a commit to the page cache until the
next checkpoint: a power cut takes back keys that were shown, and configuration that gateways have
already been given. FULL syncs the log at each commit: 1.5 to 4 ms of it where NORMAL took 0.02 (median of 300
commits, a busy virtual disk), and the control plane commits a few times a second.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from services.kit.env import EnvError

BUSY_S = 5
"""Seconds that a writer waits for another before it is told so: pages and REST queue behind it meanwhile."""
CONNECT_S = 3
"""Seconds for a PostgreSQL to take a connection."""
SQLITE_START = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"


def from_url(url: str) -> dict[str, Any]:
    """Django's database settings for ``sqlite:////path`` or ``postgres://user:pass@host:port/name``."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        path = unquote(url.removeprefix("sqlite:///"))
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": path,
            # Tests get a file too: an in-memory database has neither WAL nor writers that wait.
            "TEST": {"NAME": f"{path}.test"},
            # A file does not hang up: opening it anew per task or request is work for nothing.
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # IMMEDIATE takes the write lock at BEGIN, so two writers wait for each other
                # (up to ``timeout`` seconds) where a late upgrade would fail at once.
                "transaction_mode": "IMMEDIATE",
                "timeout": BUSY_S,
                "init_command": SQLITE_START,
            },
        }
    if parts.scheme in {"postgres", "postgresql"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"connect_timeout": CONNECT_S} | dict(parse_qsl(parts.query)),
        }
    raise EnvError(f"DATABASE_URL must start with sqlite:// or postgres://, not {parts.scheme}://.")
