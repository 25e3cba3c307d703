"""A process that hangs is killed by the launcher and started again, and what is only seen through it is left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import Fleet, new_fleet
from tests.waiting import until


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("hangs")
    system = new_fleet(folder, MC_PROCESSES="redis,relay,collector,clickhouse", MC_HANG_SECONDS="15")
    try:
        system.start()
        yield system
        assert system.stop() == 0, system.said()
        assert not system.left_behind(), system.left_behind()
    finally:
        system.end()


@pytest.mark.solo
@pytest.mark.parametrize("name", ["relay", "collector", "redis"])
def test_a_process_that_hangs_is_killed_and_started_again(small: Fleet, name: str) -> None:
    pids = {each: small.pid(each) for each in ("redis", "relay", "collector", "clickhouse")}
    os.killpg(pids[name], signal.SIGSTOP)
    until(lambda: small.pid(name) not in (0, pids[name]), 90, every=0.5, what=f"another {name}")
    assert f"{name} has given no sign of life for" in small.said()
    for other in pids:
        if other != name:
            assert small.pid(other) == pids[other], f"{other} was well"
