"""A test run that is killed takes what it started along, into whatever session that had gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import watch
from tests.waiting import until
from tests.wire.gateway import ROOT

RUN = """
import os, pathlib, time
from tests.clickhouse import Engine
from tests.redis_server import RedisServer
from tests.wire.gateway import running

def test_starts_much_and_hangs(tmp_path):
    with RedisServer(tmp_path / "redis") as redis, Engine(tmp_path / "clickhouse"):
        with running(tmp_path, redis.url, workers=2):
            pathlib.Path({said!r}).write_text(os.environ["TESTS_OF_RUN"])
            time.sleep(300)
"""


def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    said = tmp_path / "run"
    test = tmp_path / "test_hangs.py"
    test.write_text(RUN.format(said=str(said)))
    env = {name: value for name, value in os.environ.items() if name != watch.NAME}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "no:cacheprovider",
        str(test),
    ]
    with (tmp_path / "out").open("wb") as out:
        run = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=out, stderr=out)
    try:
        until(said.exists, 100, what="everything started")
        name = said.read_text()
        # Redis, ClickHouse, the gateway with two workers, its upstream; pytest itself began before it had a name.
        assert len(watch.members(name)) == 6, [process.cmdline() for process in watch.members(name)]
    finally:
        run.kill()
        run.wait(10)
    until(lambda: not watch.members(name), 20, what="nothing left")
