"""Engines that a test may stop: a Redis of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from missioncontrol.launch.engines import redis_server as find_redis
from tests.waiting import free_port, listening, until


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis that the test may kill: its URL and process."""
    port = free_port()
    command = [find_redis(Path(sys.prefix)), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([*command, "--save", ""], stdout=log, stderr=log)
    try:
        until(lambda: listening(port), 5, what="redis")
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.kill()
        process.wait(5)
