"""However a run ends, nothing of it stays: Ctrl-C, a killed launcher, a killed supervisor, a part that won't start."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.fleet import Fleet, new_fleet
from tests.waiting import patient, until

pytestmark = [pytest.mark.solo, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def home() -> Iterator[Fleet]:
    """One home for all tests here, so that only the first start is a cold one. Each test starts and ends it."""
    system = new_fleet()
    try:
        yield system
    finally:
        system.end()


@pytest.fixture
def started(home: Fleet) -> Fleet:
    home.start()
    return home


def test_ctrl_c_drains_and_leaves_nothing(started: Fleet) -> None:
    assert started.stop(signal.SIGINT) == 0
    said = started.said()
    order = [line.split("stopped: ")[1] for line in said.splitlines() if "stopped: " in line]
    assert order[0] == "gateway"
    assert order[-1] == "redis clickhouse"
    assert said.rstrip().endswith("Stopped; nothing is left running.")
    assert started.left_behind() == []


def test_a_killed_launcher_takes_everything_along(started: Fleet) -> None:
    assert started.process is not None
    started.process.kill()
    started.process.wait()
    # Its children have fifteen seconds to drain, and the kernel some more to take them away.
    until(lambda: not started.left_behind(), 60, every=0.5, what="everything gone")


def test_a_killed_supervisor_takes_everything_along_and_is_reported(started: Fleet) -> None:
    assert started.process is not None
    supervisor = next(p for p in psutil.Process(started.process.pid).children() if "daemon" in " ".join(p.cmdline()))
    supervisor.kill()
    assert started.process.wait(180) == 1
    assert "The supervisor ended without being asked" in started.said()
    assert started.left_behind() == []


def test_a_second_signal_ends_everything_at_once(started: Fleet) -> None:
    assert started.process is not None
    started.process.send_signal(signal.SIGTERM)
    until(lambda: "Stopping" in started.said(), 5)
    began = time.monotonic()
    assert started.stop(signal.SIGTERM, 10) == 0
    assert time.monotonic() - began < patient(5)
    until(lambda: not started.left_behind(), 5, what="everything gone")


def test_a_part_that_will_not_start_is_named_with_its_last_words(home: Fleet) -> None:
    # Redis 7 keeps a manifest of its append-only files, Redis 6 has the one file.
    written = home.home / "redis"
    manifest = next(iter([*written.rglob("*.aof.manifest"), *written.glob("*.aof")]))
    kept = manifest.read_bytes()
    manifest.write_bytes(b"nothing that Redis ever wrote\n")
    try:
        home.launch()
        assert home.process is not None
        assert home.process.wait(180) == 1
    finally:
        manifest.write_bytes(kept)
    said = home.said()
    assert "redis ended again and again. Its last lines:" in said
    assert re.search(r"Invalid AOF manifest|Bad file format reading the append only file", said)
    assert f"The whole log is {home.home / 'logs' / 'redis.log'}." in said
    assert home.left_behind() == []


def test_a_folder_that_a_newer_redis_wrote_is_refused_in_a_sentence(home: Fleet) -> None:
    mark = home.home / "redis" / "served-by"
    kept = mark.read_text()
    mark.write_text("valkey 99.0.1\n")
    try:
        home.launch()
        assert home.process is not None
        assert home.process.wait(180) == 1
    finally:
        mark.write_text(kept)
    assert f"{home.home / 'redis'} was written by Valkey 99.0.1, and this is Valkey 9." in home.said()
    assert "Traceback" not in home.said()
    assert home.left_behind() == []


def test_a_demo_service_that_will_not_start_does_not_end_the_rest(home: Fleet) -> None:
    home.env["MINT_DATABASE_URL"] = "nonsense"
    try:
        home.start()
        said = home.said()
        assert "mint is not ready yet" in said
        states = dict(line.split()[:2] for line in home.ctl("status").splitlines())
        del states["mint"]
        assert set(states.values()) <= {"RUNNING", "STARTING"}, states
    finally:
        del home.env["MINT_DATABASE_URL"]
        assert home.stop(signal.SIGINT) == 0


def test_stopping_while_it_starts_leaves_nothing(home: Fleet) -> None:
    home.launch()
    assert home.process is not None
    until(lambda: "ready: redis" in home.said(), 90, what="the first process")
    os.kill(home.process.pid, signal.SIGINT)
    assert home.process.wait(120) == 130
    assert "Stopped before everything was up." in home.said()
    assert home.left_behind() == []
