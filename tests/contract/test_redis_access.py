"""The embedded Redis from another process of this machine: without the secret nothing, with it data and no more.

The real server under the configuration that the launcher writes; the attempts are those that a local user has.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from kombu import Connection

from missioncontrol.launch import redisconf
from tests import machine
from tests.redis_server import RedisServer
from tests.waiting import free_port, listening, until

PASSWORD = "a secret with $, %, @ and : in it"


class Production(RedisServer):
    """Without what tests add."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, password="plain")

    def text(self, durable: bool) -> str:
        return redisconf.configuration(self.folder, self.port, self.password)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with Production(tmp_path_factory.mktemp("it's a 'quoted' \"folder\" é")) as found:
        yield found


def say(port: int, line: str) -> str:
    """One inline command on a connection of its own, as any local program can send it."""
    with socket.create_connection(("127.0.0.1", port), 5) as raw:
        raw.sendall(line.encode() + b"\r\n")
        return raw.recv(4096).decode()


@pytest.mark.parametrize(
    "command",
    [
        "PING",
        "GET mc:config:current",
        "SET a b",
        "PUBLISH mc:config 1",
        "KEYS *",
        "INFO",
        "CONFIG GET dir",
        "CONFIG SET dir /tmp",
        "MODULE LOAD /tmp/evil.so",
        "EVAL 'return 1' 0",
        "SUBSCRIBE mc:config",
        "FLUSHALL",
        "SHUTDOWN NOSAVE",
        "ACL WHOAMI",
    ],
)
def test_without_the_secret_nothing_is_answered(server: RedisServer, command: str) -> None:
    assert say(server.port, command).startswith("-NOAUTH")


@pytest.mark.parametrize("login", ["AUTH wrong", "AUTH mission wrong", "AUTH default ''", "HELLO 3 AUTH default x"])
def test_a_wrong_secret_opens_nothing(server: RedisServer, login: str) -> None:
    assert say(server.port, login).startswith("-WRONGPASS")


DANGEROUS = (
    "CONFIG GET dir",
    "CONFIG SET dir /tmp",
    "CONFIG SET appendonly no",
    "CONFIG REWRITE",
    "MODULE LIST",
    "MODULE LOAD /tmp/evil.so",
    "MODULE LOADEX /tmp/evil.so",
    "DEBUG SEGFAULT",
    "DEBUG SLEEP 1",
    "REPLICAOF 192.0.2.1 6379",
    "SLAVEOF 192.0.2.1 6379",
    "SYNC",
    "PSYNC ? -1",
    "SHUTDOWN NOSAVE",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "ACL SETUSER mallory on nopass ~* +@all",
    "ACL LIST",
    "ACL GETUSER mission",
    "CLIENT KILL TYPE normal",
    "CLIENT LIST",
    "CLIENT PAUSE 1000",
    "MONITOR",
    "KEYS *",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "MIGRATE 192.0.2.1 6379 key 0 1000",
    "RESTORE key 0 x",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION FLUSH",
    "FUNCTION LIST",
    "FAILOVER",
    "CLUSTER RESET",
    "LATENCY RESET",
    "SLOWLOG GET",
)


@pytest.mark.parametrize("command", DANGEROUS)
def test_with_the_secret_dangerous_commands_are_still_refused(server: RedisServer, command: str) -> None:
    with (
        redis.Redis.from_url(server.url) as client,
        pytest.raises(redis.ResponseError, match=r"has no permissions|command not allowed"),
    ):
        client.execute_command(*command.split())


@pytest.mark.parametrize(
    "command", ["redis.call('CONFIG', 'SET', 'dir', '/tmp')", "redis.call('FLUSHALL')", "dofile('x')"]
)
def test_a_script_reaches_no_further_than_its_caller(server: RedisServer, command: str) -> None:
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.ResponseError):
        client.eval(f"return {command}", 0)


async def test_every_client_we_use_works_with_the_url(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as plain:
        plain.set("a", "1")
        assert plain.eval("return redis.call('GET', KEYS[1])", 1, "a") == b"1"
        assert plain.pubsub_numsub("x") == [(b"x", 0)]
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.xadd("s", {"e": "x"})
        assert await client.xlen("s") == 1
    with Connection(server.url) as tasks:
        tasks.ensure_connection(max_retries=1)
        with tasks.SimpleQueue("test-tasks") as queue:
            queue.put({"task": 1})
            assert queue.get(timeout=5).payload == {"task": 1}


def test_the_secret_is_in_no_command_line_and_its_file_is_for_the_owner(server: RedisServer) -> None:
    assert server.process is not None
    shown = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert b"plain" not in shown
    assert server.config.stat().st_mode & 0o077 == 0
    assert "plain" not in server.config.read_text()


def test_any_password_works(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password=PASSWORD) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_this_machine_gets_in_no_further(server: RedisServer) -> None:
    code = f"""
import encodings.idna, os, socket
os.setgid(65534); os.setuid(65534)
with socket.create_connection(("127.0.0.1", {server.port}), 5) as raw:
    raw.sendall(b"CONFIG SET dir /tmp\\r\\n")
    print(raw.recv(100).decode())
try:
    open({str(server.config)!r}).read()
except PermissionError:
    print("unread")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.startswith("-NOAUTH")
    assert said.strip().endswith("unread")


@pytest.mark.redis
def test_the_machines_own_server_takes_the_same_configuration(tmp_path: Path) -> None:
    """Where the wheel has no server, the one on PATH stands in."""
    server = machine.redis()
    assert server
    port = free_port()
    config = tmp_path / "redis.conf"
    config.write_text(redisconf.configuration(tmp_path, port, "plain", durable=False))
    process = subprocess.Popen([server, str(config)], stdout=subprocess.DEVNULL)
    try:
        until(lambda: listening(port), 10, what="redis")
        assert say(port, "PING").startswith("-NOAUTH")
        with redis.Redis.from_url(f"redis://mission:plain@127.0.0.1:{port}/0") as client:
            assert client.set("a", "1")
            with pytest.raises(redis.ResponseError):
                client.execute_command("CONFIG", "GET", "dir")
    finally:
        process.kill()
        process.wait()
