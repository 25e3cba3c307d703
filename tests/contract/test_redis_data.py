"""A folder that another version wrote is refused, never overlooked: with real servers and their real files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from missioncontrol.launch import engines, redisdata
from tests import machine
from tests.redis_server import RedisServer
from tests.waiting import listening, until

BUNDLED = engines.redis_server(Path(sys.prefix))
REDIS_7 = engines.Server("/usr/bin/redis-server", "redis", (7, 0, 15))


def filled(folder: Path, *, rewrite: bool = True) -> Path:
    """A folder that the bundled server has kept a key in."""
    with RedisServer(folder, durable=True) as server, redis.Redis.from_url(server.admin_url) as client:
        client.set("kept", "1")
        if rewrite:
            client.bgrewriteaof()
            until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 10, what="rewritten")
        client.shutdown(save=False, force=True)
    return folder


def base(folder: Path) -> Path:
    return next((folder / "appendonlydir").glob("*.base.rdb"))


def test_its_own_folder_an_empty_one_and_an_older_ones_are_fine(tmp_path: Path) -> None:
    assert redisdata.objection(tmp_path, BUNDLED) is None
    assert redisdata.objection(filled(tmp_path / "own"), BUNDLED) is None
    redisdata.mark(tmp_path / "own", BUNDLED)
    assert redisdata.objection(tmp_path / "own", BUNDLED) is None
    newer = engines.Server("", "valkey", (BUNDLED.version[0] + 1, 0, 0))
    assert redisdata.objection(tmp_path / "own", newer) is None
    patched = engines.Server("", "valkey", (*BUNDLED.version[:2], 0))
    assert redisdata.objection(tmp_path / "own", patched) is None


def test_what_a_newer_version_wrote_is_refused_by_name(tmp_path: Path) -> None:
    path = base(filled(tmp_path))
    path.write_bytes(path.read_bytes().replace(b"9.1.", b"9.9."))
    assert str(redisdata.objection(tmp_path, BUNDLED)).startswith(
        f"{tmp_path} was written by Valkey 9.9.2, and this is {BUNDLED}, which can't be trusted"
    )


def test_the_fallback_on_the_path_does_not_take_over_what_the_bundled_server_wrote(tmp_path: Path) -> None:
    filled(tmp_path)
    assert "was written by Valkey 9.1" in str(redisdata.objection(tmp_path, REDIS_7))


def test_a_log_without_a_header_is_known_by_who_last_ran_there(tmp_path: Path) -> None:
    """A newer server leaves an older one's snapshot alone and appends commands that the older doesn't know."""
    filled(tmp_path)
    redisdata.mark(tmp_path, engines.Server("", "valkey", (10, 0, 1)))
    assert "was written by Valkey 10.0.1" in str(redisdata.objection(tmp_path, BUNDLED))


@contextmanager
def machines_server(folder: Path, port: int) -> Iterator[redis.Redis]:
    server = machine.redis()
    assert server
    argv = [server, "--port", str(port), "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        until(lambda: listening(port), 10, what="redis")
        with redis.Redis(port=port) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.redis
def test_an_older_redis_folder_is_read_and_not_overlooked(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, durable=True)
    with machines_server(tmp_path, server.port) as client:
        client.set("from", "redis 7")
    assert redisdata.objection(tmp_path, BUNDLED) is None
    with server, redis.Redis.from_url(server.url) as client:
        assert client.get("from") == b"redis 7"


def test_data_that_the_server_would_overlook_is_refused(tmp_path: Path) -> None:
    """A snapshot beside no append-only file, or such a file without its manifest: the server starts empty."""
    folder = filled(tmp_path / "snapshot")
    base(folder).rename(folder / "dump.rdb")
    for path in (folder / "appendonlydir").iterdir():
        path.unlink()
    assert f"{folder / 'dump.rdb'} holds data that" in str(redisdata.objection(folder, BUNDLED))

    folder = filled(tmp_path / "orphan")
    next((folder / "appendonlydir").glob("*.manifest")).unlink()
    assert "holds data that" in str(redisdata.objection(folder, BUNDLED))
    # And so it would be:
    with RedisServer(folder, durable=True) as server, redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


def test_files_that_are_no_snapshots_are_left_to_the_server(tmp_path: Path) -> None:
    for content in (b"", b"REDIS", b"REDIS0011\xfa", b"REDIS0011\xfa\xff", b"VALKEY080\xfa\x3f", b"\0" * 2000):
        (tmp_path / "appendonly.aof").write_bytes(content)
        assert redisdata.objection(tmp_path, BUNDLED) is None
    (tmp_path / redisdata.MARK).write_text("nonsense\n")
    assert redisdata.objection(tmp_path, BUNDLED) is None
