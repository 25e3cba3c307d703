"""Ask this machine's supervisor which processes run. Blocks, a second or two at most.

Knows supervisord's XML-RPC (supervisord.org/api.html) on the Unix socket that its configuration names, and nothing
of what the processes are. supervisord counts no restarts, so starts are counted here as they are seen.
"""

from __future__ import annotations

import configparser
import http.client
import socket
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from apps.dashboard.judge.readings import Process

WAIT = 2.0
"""Seconds for the supervisor to answer."""
REMEMBER = 600.0
"""Seconds for which a start is counted."""
MOST_STARTS = 50
"""Starts remembered of one process."""


class SupervisorAway(RuntimeError):
    """There is a supervisor and it does not answer."""


class ProcessSource:
    """Every process of the supervisor that ``config`` describes, each time it is asked."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._starts: dict[str, list[float]] = {}

    @property
    def there(self) -> bool:
        """Whether a supervisor runs things here; in a fleet of single processes none does."""
        return self._config.exists()

    def read(self) -> Mapping[str, Process]:
        """SupervisorAway when it does not answer."""
        rows = _ask(self._config)
        names = {str(row["name"]) for row in rows}
        self._starts = {name: starts for name, starts in self._starts.items() if name in names}
        return {str(row["name"]): self._process(row) for row in rows}

    def _process(self, row: Mapping[str, Any]) -> Process:
        name, state = str(row["name"]), str(row["statename"])
        started, now = float(row["start"]), float(row["now"])
        starts = self._starts.setdefault(name, [started])
        if state == "STOPPED":
            # Somebody stopped it: that it starts after this is no crash.
            starts[:] = [started]
        elif started != starts[-1]:
            starts.append(started)
            del starts[:-MOST_STARTS]
        again = sum(1 for at in starts[1:] if now - at <= REMEMBER)
        running = state in {"RUNNING", "STARTING", "STOPPING"}
        since = started if running else float(row["stop"]) or started
        return Process(name, state, since, int(row["pid"]), str(row["spawnerr"] or ""), again)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


def _ask(config: Path) -> list[dict[str, Any]]:
    try:
        path = _socket(config)
        with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(path)) as server:
            return cast("list[dict[str, Any]]", server.supervisor.getAllProcessInfo())
    except (OSError, http.client.HTTPException, xmlrpc.client.Error, configparser.Error, KeyError) as error:
        raise SupervisorAway(f"The supervisor does not answer: {error}") from None


def _socket(config: Path) -> str:
    """Where it listens. Read each time: every start of the launcher may choose another place."""
    parser = configparser.ConfigParser(interpolation=configparser.BasicInterpolation(), strict=False)
    parser.read_string(config.read_text())
    return parser["unix_http_server"]["file"]
