"""Whoever reaches the broker, with its password, and writes events as somebody else: nothing moves, and it is seen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiormq
import pytest
import redis
import requests
from msgspec.structs import replace
from pamqp.commands import Basic
from sqlalchemy import create_engine, text

from services.kit.events import keys
from services.kit.events.cloudevent import CloudEvent, attributes, encode, encode_data
from services.kit.events.signing import CONTROL, Key, Ring, sign
from services.kit.events.transport import rabbit_wire, redis_wire
from services.kit.events.transport.base import Outgoing
from services.kit.events.transport.connect import connect
from tests.brokers import KINDS, MARKERS, Broker, Entry, RabbitMQ, Redis
from tests.fleet import ROOT, Fleet, new_fleet
from tests.unit.services.processes import Home, Process
from tests.waiting import until

RECORDED = "business.transaction.recorded"
VARIABLES = {"redis": "REDIS_URL", "rabbitmq": "AMQP_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS"}


@dataclass
class Scene:
    """A ledger and its balances over one broker."""

    broker: Broker
    home: Home
    covenant: Process
    mint: Process

    def record(self, amount: str) -> None:
        body = {"from": "a", "to": "till", "amount": amount, "currency": "AZR"}
        assert self.covenant.post("/v1/transactions", body).status_code == 201

    def balance(self, account: str = "till") -> str:
        answer = self.mint.get(f"/v1/accounts/{account}")
        return str(answer.json()["balances"]["AZR"]) if answer.status_code == 200 else "none"

    def kept(self) -> dict[str, int]:
        """What mint put aside, by kind."""
        engine = create_engine(f"sqlite:///{self.home.folder}/services/mint.sqlite3")
        try:
            with engine.connect() as connection:
                query = text("SELECT kind, COUNT(*) AS count FROM parked GROUP BY kind")
                return {row.kind: row.count for row in connection.execute(query)}
        finally:
            engine.dispose()

    def said(self) -> str:
        health = self.mint.get("/health")
        assert health.status_code == 200, "it serves on"
        return str(health.json()["checks"]["events"])

    def overheard(self) -> CloudEvent:
        """A true event, as a thief reads it."""

        async def read() -> CloudEvent:
            transport = connect(self.broker.url)
            reading = await transport.subscribe([RECORDED], "thief", "thief")
            try:
                while True:
                    for one in await reading.fetch(10, 5):
                        if one.event is not None:
                            return one.event
            finally:
                await transport.close()

        return asyncio.run(read())

    def publish(self, *events: Outgoing) -> None:
        """As anybody may who has the password."""

        async def send() -> None:
            transport = connect(self.broker.url)
            assert await transport.publish(events) == [None] * len(events)
            await transport.close()

        asyncio.run(send())


def brokers() -> list[Any]:
    return [
        pytest.param(kind, marks=getattr(pytest.mark, MARKERS[kind]) if kind in MARKERS else ()) for kind in VARIABLES
    ]


@pytest.fixture(scope="module", params=brokers())
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    kind = request.param
    broker = KINDS[kind](tmp_path_factory.mktemp("broker"))
    broker.start()
    home = Home(tmp_path_factory.mktemp("home"), "redis://127.0.0.1:9")
    bus = {"MC_BUS_DEFAULT": kind, VARIABLES[kind]: broker.url}
    covenant, mint = Process(home, "covenant", **bus), Process(home, "mint", **bus)
    try:
        yield Scene(broker, home, covenant.start(), mint.start())
    finally:
        covenant.kill()
        mint.kill()
        broker.end()


def theft(height: int, **changes: Any) -> CloudEvent:
    """What would make a million out of nothing."""
    data = {"id": f"t{height}", "height": height, "from": "bank", "to": "thief", "amount": "1000000.00",
            "currency": "AZR", "recorded_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    given = {"partition_key": "ledger", "sequence": height} | changes
    return CloudEvent(f"forged{height}", RECORDED, given.pop("source", "covenant"), time.time(), data, **given)


def test_what_is_forged_moves_nothing_and_is_counted_and_shown(scene: Scene) -> None:
    scene.record("4.00")
    until(lambda: scene.balance() == "4.00", 30)
    true = scene.overheard()
    name = true.extensions["mckey"]
    million = {**true.data, "id": "t9", "to": "thief", "amount": "1000000.00"}
    forged = [
        theft(101),  # not signed
        theft(102, extensions={"mckey": name, "mcproof": true.extensions["mcproof"]}),  # with another's proof
        sign(theft(103), Key.of("covenant", "guessed" * 8)),  # by a key of the thief's
        replace(one := sign(theft(104), Key.of("covenant", "guessed" * 8)),
                extensions={**one.extensions, "mckey": name}),  # that is called as the true one
        scene.home.signed(theft(105), "mint"),  # by somebody who may speak, but not for the ledger
        scene.home.signed(theft(106), CONTROL),  # nor may Mission Control
        theft(107, source=CONTROL),
        replace(true, data=million),  # a true one with other data
        replace(true, id="again"),  # that is to happen once more
        replace(true, partition_key="other"),
        replace(true, partition_key=""),
        replace(true, sequence=108),
        replace(true, extensions={**true.extensions, "urgent": True}),
    ]  # fmt: skip
    scene.publish(*(Outgoing(one) for one in forged))
    # A true one happens once, in whatever topic it comes again; and who has a key of its own keeps no ledger by it.
    scene.publish(Outgoing(true), Outgoing(true, "elsewhere"), Outgoing(scene.home.signed(theft(109, source="nexus"))))
    scene.record("1.00")
    until(lambda: scene.balance() == "5.00", 30, what="nothing stands still")
    # At least: what RabbitMQ delivers again, under another number, is another row.
    until(lambda: scene.kept().get("forged", 0) >= len(forged), 20, what=f"{scene.kept()}")
    until(lambda: scene.kept().keys() == {"forged", "BadTransaction"}, 20, what=f"{scene.kept()}")
    assert scene.balance("thief") == scene.balance("bank") == "none"
    assert scene.mint.get("/v1/totals").json()["totals"] == {"AZR": "0.00"}
    until(lambda: f"it refused {scene.kept()['forged']} forged events" in scene.said(), 20)


async def routed(url: str, entry: Entry) -> None:
    """Into the queues of those who want the type."""
    connection = await aiormq.connect(url)
    headers = dict(entry.headers)
    properties = Basic.Properties(headers=headers, content_type=headers.pop("content-type"))
    channel = await connection.channel()
    key = f"{RECORDED}.p3"
    await channel.basic_publish(entry.body, exchange=rabbit_wire.EXCHANGE, routing_key=key, properties=properties)
    await connection.close()


def test_raw_messages_of_a_stranger_stop_nothing(scene: Scene) -> None:
    before = Decimal(scene.balance()) if scene.balance() != "none" else Decimal(0)
    scene.record("4.00")
    kept = sum(scene.kept().values())
    until(lambda: scene.balance() == f"{before + 4:.2f}", 30)
    true = scene.overheard()
    broker = scene.broker

    def put(event: CloudEvent, old: bytes = b"", new: bytes = b"") -> None:
        """Written by hand."""
        if isinstance(broker, Redis):
            body, headers = encode(event), {"t": RECORDED}
        else:
            body, headers = encode_data(event), dict(broker.named(attributes(event)))
        assert not old or old in body
        entry = Entry(body.replace(old, new) if old else body, headers, event.partition_key)
        if isinstance(broker, RabbitMQ):
            asyncio.run(routed(broker.url, entry))
        else:
            broker.put("business", [entry])

    put(theft(201))
    # Which of two members counts? The one that was read is under the proof: here the thief's, there the ledger's.
    put(true, b'"amount":"4.00"', b'"amount":"4.00","amount":"1000000.00"')
    put(true, b'"amount":"4.00"', b'"amount":"1000000.00","amount":"4.00"')
    put(true, b'"amount":"4.00"', b'"amount":' + b"[" * 900 + b"]" * 900)
    put(replace(theft(202), extensions={"mckey": "\N{SNOWMAN}" * 200, "mcproof": ""}))
    scene.record("1.00")
    until(lambda: scene.balance() == f"{before + 5:.2f}", 30, what="nothing stands still")
    until(lambda: sum(scene.kept().values()) >= kept + 4, 20, what=f"{scene.kept()}")
    assert set(scene.kept()) <= {"forged", "odd", "BadTransaction"} and scene.balance("thief") == "none"
    until(lambda: "forged events" in scene.said(), 20)


def test_without_keys_mint_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    broker = KINDS["redis"](tmp_path / "broker")
    broker.start()
    home = Home(tmp_path / "home", broker.url)
    path = home.folder / "secrets" / "mc_bus_keys"
    held = path.read_text()
    path.unlink()
    covenant, mint = Process(home, "covenant").start(), Process(home, "mint").start(ready=False)
    scene = Scene(broker, home, covenant, mint)
    try:
        until(lambda: mint.get("/health").status_code == 503, 20)
        assert "There are no keys" in mint.get("/health").json()["detail"]
        scene.record("4.00")
        until(lambda: "waited for the bus" in covenant.get("/health").json()["checks"]["outbox"], 20)
        path.write_text(held)
        until(lambda: scene.balance() == "4.00", 30, what="it goes on by itself")
        assert scene.kept() == {}
    finally:
        covenant.kill()
        mint.kill()
        broker.end()


@pytest.fixture(scope="module")
def own_fleet() -> Iterator[Fleet]:
    system = new_fleet()
    try:
        system.start()
        yield system
        assert system.stop() == 0
    finally:
        system.end()


@pytest.mark.solo
def test_the_whole_system_refuses_a_forgery_counts_it_and_exchanges_a_key_meanwhile(own_fleet: Fleet) -> None:
    def ask(method: str, path: str, **rest: Any) -> requests.Response:
        headers = {"X-API-Key": own_fleet.credentials["demo_api_key"]}
        return requests.request(method, own_fleet.gateway + path, headers=headers, timeout=20, **rest)

    def say(sentence: str) -> None:
        assert ask("POST", "/nexus/v1/intents", json={"text": sentence}).json()["status"] == "confirmed"

    def held(account: str) -> str:
        answer = ask("GET", f"/mint/v1/accounts/{account}")
        return str(answer.json()["balances"]["AZR"]) if answer.status_code == 200 else "none"

    file = own_fleet.home / "secrets" / "mc_bus_keys"
    assert file.stat().st_mode & 0o777 == 0o600
    ring = Ring.of(keys.parse(file.read_text(), "the file"))
    assert ring.sources == {CONTROL, "aegis", "covenant", "nexus", "mint"}
    say("send 25 AZR to thandi")
    until(lambda: held("thandi") == "25.00", 20)
    with redis.Redis.from_url(own_fleet.redis_url) as client:
        for number, event in enumerate([theft(1), theft(2, source=CONTROL), ring.sign(theft(3), "mint")]):
            client.xadd(redis_wire.stream_of(("business", number)), {"e": encode(event), "t": RECORDED})

    argv = [sys.executable, "-m", "services.kit.events.keys", "covenant"]
    subprocess.run(argv, cwd=ROOT, env=os.environ | own_fleet.env, check=True, capture_output=True)
    assert file.stat().st_mode & 0o777 == 0o600
    say("send 10 AZR to thandi")
    until(lambda: held("thandi") == "35.00", 20, what="events signed by the new key are believed")

    def said() -> str:
        return str(requests.get(f"{own_fleet.service('mint')}/health", timeout=10).json()["checks"]["events"])

    until(lambda: "it refused 3 forged events" in said(), 20)
    assert held("thief") == "none" and "parked" not in said()

    def counted() -> int:
        """As the System page does."""
        query = "SELECT sum(Value) FROM {}.otel_metrics_sum WHERE MetricName = 'mc.bus.forged' AND ServiceName = 'mint'"
        answer = requests.post(own_fleet.clickhouse_url, data=query.format("mission"), timeout=10)
        return int(float(answer.text or 0))

    until(lambda: counted() >= 3, 30, what="it is counted")
