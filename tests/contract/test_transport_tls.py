"""TLS and logins by a broker's URL, against the brokers themselves: what is right works, all else is said plainly."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.transport.base import Outgoing, TransportAway
from services.kit.events.transport.connect import connect
from tests import machine
from tests.certificates import Authority, Pair
from tests.kafka_server import KafkaServer
from tests.rabbitmq_server import RabbitServer
from tests.redis_server import RedisServer
from tests.waiting import free_port, listening, patient, until

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
PLAIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_ann="secret";'


class Secured:
    """A broker that speaks TLS at one port and plain text at another, and wants a login."""

    def __init__(self, scheme: str, plain: str, tls_port: int, trust: str) -> None:
        self.scheme, self.plain, self.tls_port = scheme, plain, tls_port
        self.trust = trust
        """The option that names an authority."""

    def url(self, authority: Path | None, *, port: int = 0, login: str = "", more: str = "", scheme: str = "") -> str:
        """Of its TLS port, or another."""
        parts = urlsplit(self.plain)
        login = login or f"{parts.username}:{parts.password}"
        query = "&".join(filter(None, [f"{self.trust}={authority}" if authority else "", more]))
        return f"{scheme or self.scheme}://{login}@127.0.0.1:{port or self.tls_port}{parts.path}?{query}".rstrip("?")


class Files:
    """An authority, a server's certificate, and wrong ones."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.other = Authority(folder, "stranger")
        self.server = self.authority.sign("server")
        self.expired = self.authority.sign("expired", hours=-1)
        self.elsewhere = self.authority.sign("elsewhere", "elsewhere.test")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


def redis_with_tls(folder: Path, files: Files) -> Iterator[Secured]:
    port = free_port()
    lines = (
        f"tls-port {port}\ntls-auth-clients no\ntls-cert-file {files.server.certificate}\n"
        f"tls-key-file {files.server.key}\ntls-ca-cert-file {files.authority.file}"
    )
    with RedisServer(folder, binary=machine.redis() or "", lines=lines) as server:
        yield Secured("rediss", server.url, port, "ssl_ca_certs")


def rabbitmq_with_tls(folder: Path, files: Files) -> Iterator[Secured]:
    port = free_port()
    lines = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {files.authority.file}\n"
        f"ssl_options.certfile = {files.server.certificate}\nssl_options.keyfile = {files.server.key}\n"
        "ssl_options.verify = verify_none\n"
    )
    server = RabbitServer(folder, lines)
    try:
        server.start()
        # It listens at its plain port first.
        until(lambda: listening(port), 30, what="RabbitMQ's TLS port")
        yield Secured("amqps", server.url, port, "cafile")
    finally:
        server.end()


def kafka_with_tls(folder: Path, files: Files) -> Iterator[Secured]:
    port, store = free_port(), folder / "server.pem"
    store.write_bytes(files.server.key.read_bytes() + files.server.certificate.read_bytes())
    server = KafkaServer(
        folder,
        {
            "listeners": f"{{plain}},SECURE://127.0.0.1:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "listener.name.secure.plain.sasl.jaas.config": PLAIN,
            "listener.name.secure.scram-sha-256.sasl.jaas.config": SCRAM,
            "listener.name.secure.scram-sha-512.sasl.jaas.config": SCRAM,
        },
        *("--add-scram", "SCRAM-SHA-256=[name=ann,password=secret]"),
        *("--add-scram", "SCRAM-SHA-512=[name=ann,password=secret]"),
    )
    try:
        server.start()
        yield Secured("kafkas", f"kafka://ann:secret@127.0.0.1:{server.port}", port, "cafile")
    finally:
        server.end()


MAKE: dict[str, Callable[[Path, Files], Iterator[Secured]]] = {
    "redis": redis_with_tls,
    "rabbitmq": rabbitmq_with_tls,
    "kafka": kafka_with_tls,
}


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in MAKE])
def broker(request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    yield from MAKE[request.param](tmp_path_factory.mktemp(request.param), files)


async def carries(url: str) -> None:
    """An event goes there and comes back."""
    domain, bus = f"t{uuid4().hex[:8]}", connect(url)
    try:
        event = CloudEvent(str(uuid4()), f"{domain}.a.b", "test", time.time(), {}, partition_key="k")
        assert await bus.publish([Outgoing(event)]) == [None]
        reader = await bus.subscribe([f"{domain}.#"], f"{domain}-g", "m")
        async with asyncio.timeout(patient(20)):
            while not (found := await reader.fetch(1, 1.0)):
                pass
        assert found[0].event and found[0].event.id == event.id
        await reader.ack(found)
    finally:
        await bus.close()


async def refusal(url: str) -> str:
    """What is said when nothing can be published there."""
    bus = connect(url)
    try:
        with pytest.raises(TransportAway) as refused:
            await bus.publish([Outgoing(CloudEvent("1", "t.a.b", "test", 0.0, {}))])
    finally:
        await bus.close()
    return str(refused.value)


async def test_an_event_is_carried_over_tls_when_its_authority_is_named(broker: Secured, files: Files) -> None:
    await carries(broker.url(files.authority.file))


async def test_without_its_authority_or_by_another_nothing_is_sent(broker: Secured, files: Files) -> None:
    for trusted in (files.other.file, None):
        said = await refusal(broker.url(trusted))
        assert "no authority trusted here" in said, said


@pytest.fixture
async def in_between(broker: Secured) -> AsyncIterator[Callable[[Pair], asyncio.Future[int]]]:
    """Somebody with another certificate in front of the real broker, whose bytes he hands on; his port."""
    servers: list[asyncio.Server] = []
    port = urlsplit(broker.plain).port

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, ours), pipe(theirs, writer))

    async def begin(pair: Pair) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield lambda pair: asyncio.ensure_future(begin(pair))
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("which", "words"), [("expired", "its certificate has expired"), ("elsewhere", "is for another host")]
)
async def test_a_certificate_that_proves_nothing_is_told_by_what_is_wrong_with_it(
    broker: Secured, files: Files, in_between: Callable[[Pair], asyncio.Future[int]], which: str, words: str
) -> None:
    port = await in_between(getattr(files, which))
    said = await refusal(broker.url(files.authority.file, port=port))
    assert words in said, said


async def test_who_believes_anybody_has_to_say_so(
    broker: Secured, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    option = "ssl_cert_reqs=none" if broker.scheme == "rediss" else "verify=none"
    await carries(broker.url(None, more=option))
    assert "certificate isn't checked" in caplog.text


async def test_a_wrong_password_is_said_to_be_one(broker: Secured, files: Files) -> None:
    user = urlsplit(broker.plain).username
    said = await refusal(broker.url(files.authority.file, login=f"{user}:wrong"))
    assert "does not take this user and password" in said, said


async def test_plain_text_to_a_tls_port_and_tls_to_a_plain_one_are_told_apart(broker: Secured, files: Files) -> None:
    said = await refusal(broker.url(None, scheme=broker.scheme.removesuffix("s")))
    assert f"{broker.scheme}://" in said, said
    plain = urlsplit(broker.plain).port or 0
    said = await refusal(broker.url(files.authority.file, port=plain))
    assert "speaks no TLS at this port" in said, said


@pytest.mark.parametrize("broker", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_kafka_takes_a_login_by_each_mechanism(broker: Secured, files: Files, mechanism: str) -> None:
    await carries(broker.url(files.authority.file, more=f"sasl={mechanism}"))
    said = await refusal(broker.url(files.authority.file, login="ann:wrong", more=f"sasl={mechanism}"))
    assert "does not take this user and password" in said, said
