"""A worker inside the test's own loop, for bounds that a process of its own would take minutes to reach."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.gateway.core import config, patience
from apps.gateway.plane.gateway import Gateway
from apps.gateway.plane.processes import listen
from apps.gateway.plane.worker import Settings
from apps.lib import wire
from missioncontrol import keys
from services.kit.files import write_private

AWAY = "redis://127.0.0.1:1/0"


@contextlib.asynccontextmanager
async def worker(home: Path, **given: object) -> AsyncIterator[tuple[Gateway, int]]:
    given = {"strict": True, **given}
    settings = Settings(home, AWAY, "http://127.0.0.1:1", b"p", "f", "test", keys.wire(), keys.verifier(), **given)  # type: ignore[arg-type]
    gateway = Gateway(settings)
    listener = listen("127.0.0.1", 0)
    stop = asyncio.Event()
    serving = asyncio.create_task(gateway.serve(listener, stop, lambda: None))
    await asyncio.sleep(0)
    try:
        yield gateway, listener.getsockname()[1]
    finally:
        stop.set()
        await serving


async def say(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_head_that_does_not_arrive_is_408_and_an_idle_connection_just_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.1)
    async with worker(tmp_path) as (_, port):
        slow, slow_writer = await say(port, b"GET / HTTP/1.1\r\nHost: a\r\nX-Sl")
        idle, idle_writer = await say(port, b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n")
        # An empty line begins no request: a 408 to it would be read as the answer to the next one.
        blank, blank_writer = await say(port, b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n\r\n")
        async with asyncio.timeout(5):
            told = await slow.read()
            quiet = [await idle.read(), await blank.read()]
        assert told.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in told
        assert all(each.startswith(b"HTTP/1.1 200 ") and each.count(b"HTTP/1.1") == 1 for each in quiet)
        for writer in (slow_writer, idle_writer, blank_writer):
            await hang_up(writer)


async def test_connections_past_the_bound_are_refused_and_counted(tmp_path: Path) -> None:
    async with worker(tmp_path, max_connections=2) as (gateway, port):
        held = [await say(port, b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2)]
        for reader, _ in held:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        extra, extra_writer = await say(port, b"")
        with contextlib.suppress(ConnectionError):
            assert await extra.read() == b""
        assert gateway.worker.metrics.counters["mc.gateway.connections.refused", "too_many"] == 1
        for writer in (extra_writer, *(writer for _, writer in held)):
            await hang_up(writer)


async def test_every_idle_connection_closes_when_the_worker_stops(tmp_path: Path) -> None:
    async with worker(tmp_path) as (_, port):
        reader, writer = await say(port, b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"}")
    async with asyncio.timeout(2):
        assert await reader.read() == b""
    await hang_up(writer)


async def test_a_trusted_peers_forwarding_is_believed(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()
        await hang_up(writer)

    backend = await asyncio.start_server(upstream, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{backend.sockets[0].getsockname()[1]}"
    services = (config.Service("s", (config.Instance("one", url),)),)
    document = config.Document(1, 0.0, services=services, routes=(config.Route("r", "s", "/", auth=()),))
    write_private(tmp_path / "revision.json", keys.signer().close(wire.CONFIG_CURRENT, config.encode(document), 1.0))
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n"
    for trusted, expected in (((ipaddress.ip_network("127.0.0.0/8"),), b"9.9.9.9, 127.0.0.1"), ((), b"127.0.0.1")):
        async with worker(tmp_path, trusted_proxies=trusted) as (_, port):
            reader, writer = await say(port, request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert b"X-Forwarded-For: " + expected + b"\r\n" in seen[-1]
            await hang_up(writer)
    backend.close()
    await backend.wait_closed()
