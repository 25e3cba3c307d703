"""Whom a gateway worker connects to is judged by the address that a name has at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from apps.gateway.plane.fetch import Endpoint, FetchError, endpoint
from apps.lib.addresses import Guard, Policy


@pytest.fixture
async def secret() -> AsyncIterator[int]:
    """A server that nobody may reach through us; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make every name resolve to the given addresses, one list a look-up."""
    answers: list[list[str]] = []

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return lambda *given: answers.extend(given)


async def ask(source: Endpoint) -> str:
    try:
        return (await source.call("GET"))[1].decode()
    except FetchError as error:
        return str(error)
    finally:
        source.instance.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_a_closed_port_is_not_reached_however_it_is_spelt(secret: int, host: str) -> None:
    url = f"http://{host}:{secret}/"
    assert "not allowed" in await ask(endpoint("x", url, Guard(Policy(closed=frozenset({secret})))))
    if not host.startswith("["):
        assert await ask(endpoint("x", url, Guard(Policy()))) == "secret"


async def test_a_name_that_turns_to_a_closed_address_is_refused_as_it_is_resolved(
    secret: int, resolve: Callable[..., None]
) -> None:
    url = f"http://rebinding.example:{secret}/"
    resolve(["127.0.0.1"], ["169.254.169.254"])
    guard = Guard(Policy())
    assert await ask(endpoint("x", url, guard)) == "secret"
    assert "not allowed" in await ask(endpoint("x", url, guard))


async def test_of_several_addresses_only_those_allowed_are_tried(secret: int, resolve: Callable[..., None]) -> None:
    resolve(["169.254.169.254", "0.0.0.0", "127.0.0.1"])  # noqa: S104
    assert await ask(endpoint("x", f"http://both.example:{secret}/", Guard(Policy()))) == "secret"
