"""Engines that a test may stop: a Redis of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.redis_server import RedisServer


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis that the test may kill: its URL and process."""
    with RedisServer(folder) as server:
        assert server.process is not None
        yield server.url, server.process
