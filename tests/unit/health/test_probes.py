"""Probes against real sockets: whatever an instance does is a finding with a reason, in bounded time and memory."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from apps.health.probes import Finding, Request, probe, session
from apps.lib.addresses import Guard, Policy
from tests.waiting import free_port, patient

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with session("test", Guard(Policy())) as client:
        yield client


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a TCP server that treats each connection as the test says; its URL."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(handler: Handler) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for writer in writers:
        writer.transport.abort()


def answer(raw: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()

    return handle


def response(status: str, body: bytes = b"", kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


async def ask(http: aiohttp.ClientSession, url: str, timeout: float = 2.0, **options: int) -> Finding:  # noqa: ASYNC109
    return await probe(http, Request(url + "/health", timeout, **options))


async def test_a_good_answer_passes_and_is_timed(http: aiohttp.ClientSession, serve: Serve) -> None:
    before = time.time()
    finding = await ask(http, await serve(answer(response("200 OK", b'{"status":"ok"}'))))
    assert finding.passed
    assert finding.detail == "answered 200"
    assert finding.latency_ms is not None
    assert 0 < finding.latency_ms < 2000
    assert before <= finding.at <= time.time()


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (response("503 X", b'{"detail":"database is locked"}'), "answered 503: database is locked"),
        (response("503 X", b'{"detail":"x"}', "application/problem+json"), "answered 503: x"),
        (response("500 X", b"boom\nsecond line", "text/plain"), "answered 500: boom"),
        (response("500 X", b"<html>", "text/html"), "answered 500"),
        (response("500 X", b"{nonsense"), "answered 500"),
        (response("500 X", b'["a list"]'), "answered 500"),
        (response("500 X", b'{"detail":"\\u001b[31mred\\u0007"}'), "answered 500: [31mred"),
        (response("404 X", b'{"detail":' + b'"' + b"x" * 5000 + b'"}'), "answered 404: " + "x" * 200),
        (
            response("302 X", extra="Location: http://elsewhere/\r\n"),
            "answered 302: a redirect to http://elsewhere/, which is not followed",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "did not answer in HTTP"),
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "the answer broke off"),
    ],
)
async def test_a_bad_answer_fails_and_says_why(
    http: aiohttp.ClientSession, serve: Serve, raw: bytes, detail: str
) -> None:
    finding = await ask(http, await serve(answer(raw)))
    assert not finding.passed
    assert finding.detail == detail


async def test_the_range_of_good_statuses_is_the_checks_own(http: aiohttp.ClientSession, serve: Serve) -> None:
    url = await serve(answer(response("401 X")))
    assert not (await ask(http, url)).passed
    assert (await ask(http, url, low=200, high=499)).passed


async def test_nobody_there(http: aiohttp.ClientSession) -> None:
    finding = await ask(http, f"http://127.0.0.1:{free_port()}")
    assert (finding.passed, finding.detail, finding.latency_ms) == (False, "connection refused", None)


async def test_a_host_without_a_name(http: aiohttp.ClientSession) -> None:
    finding = await ask(http, "http://nowhere.invalid:80", 5.0)
    assert finding.detail == "the host name was not found"


async def test_tls_where_none_is_spoken(http: aiohttp.ClientSession, serve: Serve) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(response("400 Bad Request"))
        await writer.drain()

    finding = await ask(http, (await serve(plain)).replace("http:", "https:"))
    assert (finding.passed, finding.detail) == (False, "TLS could not be set up")


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
async def test_a_slow_answer_fails_at_the_timeout(http: aiohttp.ClientSession, serve: Serve, first: bytes) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await asyncio.Event().wait()

    url = await serve(stall)
    start = time.monotonic()
    finding = await ask(http, url, 0.3)
    assert (finding.passed, finding.detail) == (False, "no answer in 0.3 s")
    assert time.monotonic() - start < patient(1.0)


async def test_an_endless_body_is_read_no_further_than_its_bound(http: aiohttp.ClientSession, serve: Serve) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent < 50_000_000:
            writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            sent += 0x4000
            await writer.drain()

    finding = await ask(http, await serve(pour))
    assert finding.passed
    assert sent < 20_000_000, "the connection was closed instead of drained"


async def test_endless_headers_fail(http: aiohttp.ClientSession, serve: Serve) -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(100_000):
            writer.write(b"X-%d: " % n + b"y" * 1000 + b"\r\n")
            await writer.drain()

    finding = await ask(http, await serve(pour))
    assert not finding.passed


async def test_many_instances_are_probed_at_once(http: aiohttp.ClientSession, serve: Serve) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(response("200 OK"))
        await writer.drain()

    url = await serve(slow)
    start = time.monotonic()
    findings = await asyncio.gather(*(ask(http, url, 5.0) for _ in range(100)))
    assert all(finding.passed for finding in findings)
    assert time.monotonic() - start < patient(3.0)


# -- whom it may ask -------------------------------------------------------------------------------


async def test_a_closed_address_is_never_asked_however_it_is_spelt(serve: Serve) -> None:
    asked: list[bytes] = []

    async def secret(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1))
        writer.write(b"HTTP/1.1 500 x\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nsecret")

    port = int((await serve(secret)).rpartition(":")[2])
    async with session("test", Guard(Policy(closed=frozenset({port})))) as http:
        for host in ("127.1", "2130706433", "0x7f.1"):
            assert not (await probe(http, Request(f"http://{host}:{port}/", 2))).passed
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]"):
            finding = await probe(http, Request(f"http://{host}:{port}/", 2))
            assert not finding.passed and finding.latency_ms is None
            assert finding.detail == f"the address is not allowed: port {port} of this machine is Mission Control's own"
    assert not asked


async def test_a_name_that_turns_to_a_closed_address_is_refused_as_it_is_resolved(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int((await serve(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))).rpartition(":")[2])
    answers = ["127.0.0.1", "169.254.169.254"]
    loop = asyncio.get_running_loop()

    async def rebinding(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    for expected in ("answered 200", "the address is not allowed: it hands out a machine's credentials"):
        async with session("test", Guard(Policy())) as http:
            assert (await probe(http, Request(f"http://rebinding.example:{port}/", 30))).detail == expected
