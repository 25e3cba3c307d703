"""Fixtures that more than one suite uses: real engines on free ports, each in its own temporary folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from missioncontrol.launch.engines import redis_server
from tests.waiting import free_port, until


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis for this test process, on loopback, with nothing kept; its URL."""
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([redis_server(Path(sys.prefix)), *options], stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(url) as client:
            until(lambda: _answers(client), 10, what="redis")
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def redis_url(redis_process: str) -> str:
    """The URL of a real Redis, empty at the start of the test."""
    with redis.Redis.from_url(redis_process) as client:
        client.flushall()
    return redis_process


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
