"""What a delivery refuses to do, whatever its URL says: closed addresses, names that turn, strangers' keys."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apps.events.subscriptions import sending, signature
from apps.events.subscriptions.core import Verdict
from apps.lib.addresses import Guard, Policy
from services.kit.events.cloudevent import CloudEvent

KEY = signature.key_of(signature.new_secret())


def endpoint(url: str, **changes: Any) -> sending.Endpoint:
    return sending.Endpoint(url, (KEY,), **changes)


class Turning(AbstractResolver):
    """A name that points somewhere else each time it is asked for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.asked = list(addresses), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.addresses[min(self.asked, len(self.addresses) - 1)]
        self.asked += 1
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def answers(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that takes everything, and its port."""

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.read(65536)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
        await asyncio.gather(*(task for task in serving if task))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://0.0.0.0:80/",
        "http://0xa9.0xfe.0xa9.0xfe/",
        "http://127.0.0.1:7777/",
    ],
)
async def test_a_closed_address_is_never_called(url: str) -> None:
    async with sending.session("test", Guard(Policy(closed=frozenset({7777})))) as http:
        found = await sending.deliver(http, sending.sample(1.0), endpoint(url, timeout_s=2.0))
    assert (found.verdict, found.reason) == (Verdict.REST, "address"), found


async def test_a_name_that_turns_to_a_closed_address_is_not_called_there() -> None:
    async with answers() as port:
        resolver = Turning("127.0.0.1", "169.254.169.254")
        async with sending.session("test", Guard(Policy())) as http:
            connector = http.connector
            assert isinstance(connector, aiohttp.TCPConnector)
            await connector._resolver.close()
            connector._resolver, connector._use_dns_cache = resolver, False
            url = f"http://turning.example:{port}/"
            assert (await sending.deliver(http, sending.sample(1.0), endpoint(url))).verdict is Verdict.TAKEN
            found = await sending.deliver(http, sending.sample(2.0), endpoint(url))
        assert (found.reason, resolver.asked) == ("address", 2), found


async def test_a_certificate_of_nobody_we_know_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    async with answers(context) as port:
        async with sending.session("test", Guard(Policy())) as http:
            found = await sending.deliver(http, sending.sample(1.0), endpoint(f"https://127.0.0.1:{port}/"))
            plain = await sending.deliver(http, sending.sample(1.0), endpoint(f"http://127.0.0.1:{port}/"))
        assert (found.verdict, found.reason) == (Verdict.REST, "tls"), found
        assert plain.verdict is Verdict.AGAIN, plain


async def test_plain_http_where_tls_was_asked_for_is_refused() -> None:
    async with answers() as port:
        async with sending.session("test", Guard(Policy())) as http:
            found = await sending.deliver(http, sending.sample(1.0), endpoint(f"https://127.0.0.1:{port}/"))
        assert (found.verdict, found.reason) == (Verdict.REST, "tls"), found


@pytest.mark.parametrize("structured", [True, False])
def test_the_cloudevents_sdk_reads_what_we_send(structured: bool) -> None:
    event = CloudEvent(
        id='ids may hold "odd" things, ü and %',
        type="business.order.placed",
        source="/orders",
        time=1_800_000_000.0,
        data={"total": 12.5, "name": "Zoë"},
        subject="o-1",
        partition_key="o-1",
        sequence=7,
        extensions={"priority": "high"},
    )
    headers, body = sending.request(event, endpoint("http://here", structured=structured), 1.8e9)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    read = from_http_event(HTTPMessage(headers, body))
    assert (read.get_id(), read.get_type(), read.get_source()) == (event.id, event.type, event.source)
    data = read.get_data()
    assert (data if isinstance(data, dict) else json.loads(data or b"")) == event.data
    assert read.get_extension("priority") == "high" and read.get_extension("partitionkey") == "o-1"


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "both.pem"
    pem, encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    return file
