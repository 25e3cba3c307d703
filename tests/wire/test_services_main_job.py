"""The main job through the whole system: one sentence, five processes, one trace; and a part killed under it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest
import redis
import requests

from tests.brokers import Kafka, RabbitMQ
from tests.fleet import Fleet, new_fleet
from tests.kafka_server import KafkaServer
from tests.rabbitmq_server import RabbitServer
from tests.waiting import until

CHAIN = [
    ("gateway", "Server"),
    ("nexus", "Server"),
    ("nexus", "Client"),
    ("gateway", "Server"),
    ("covenant", "Server"),
    ("covenant", "Producer"),
    ("mint", "Consumer"),
]


Call = Callable[..., requests.Response]


@pytest.fixture
def call(fleet: Fleet) -> Call:
    return caller(fleet)


def caller(fleet: Fleet) -> Call:
    """A request to the gateway with the demo key."""

    def ask(method: str, path: str, **rest: Any) -> requests.Response:
        headers = {"X-API-Key": fleet.credentials["demo_api_key"]} | rest.pop("headers", {})
        return requests.request(method, fleet.gateway + path, headers=headers, timeout=20, **rest)

    return ask


def say(call: Call, text: str, **headers: str) -> requests.Response:
    return call("POST", "/nexus/v1/intents", json={"text": text}, headers=headers)


def held(call: Call, account: str) -> Decimal:
    answer = call("GET", f"/mint/v1/accounts/{account}")
    return Decimal(answer.json()["balances"]["AZR"]) if answer.status_code == 200 else Decimal(0)


def test_one_sentence_moves_money_and_leaves_one_trace(fleet: Fleet, call: Call) -> None:
    crosses(fleet, call)


def test_the_events_of_the_fleet_are_in_the_catalogue_and_keep_to_their_schemas(fleet: Fleet, call: Call) -> None:
    say(call, "send 1 AZR to catalogued")

    def wire() -> list[bytes]:
        with redis.Redis.from_url(fleet.redis_url) as bundled:
            streams = list(bundled.scan_iter("mc:events:business*", _type="stream"))
            return [value for name in streams for _, entry in bundled.xrange(name) for value in entry.values()]

    until(lambda: any(b"catalogued" in value for value in wire()), 20, what="the transaction is on the bus")
    [event] = [json.loads(value) for value in wire() if b"catalogued" in value]
    assert event["dataschema"] == "urn:mission-control:schema:business.transaction.recorded:1"
    headers = {"Authorization": f"Bearer {fleet.credentials['api_token']}"}
    asked = requests.get(f"{fleet.pages}/api/v1/events/asyncapi", headers=headers, timeout=20).json()
    operations = {name for name in asked["operations"] if "transaction" in name}
    assert operations == {
        "covenant.send.business.transaction.recorded",
        "mint.receive.business.transaction.recorded",
    }
    [seeded, *_] = requests.get(
        f"{fleet.pages}/api/v1/events?type=system.configuration.published", headers=headers, timeout=20
    ).json()["results"]
    assert seeded["schema_version"] == 1, "schemas are registered before the first event"


@pytest.mark.solo
@pytest.mark.rabbitmq
def test_rabbitmq_carries_it_where_it_is_the_default(tmp_path: Path) -> None:
    broker = RabbitServer(tmp_path)
    carries_all(broker, MC_BUS_DEFAULT="rabbitmq", AMQP_URL=broker.url)


@pytest.mark.solo
@pytest.mark.kafka
def test_kafka_carries_it_where_it_is_the_default(tmp_path: Path) -> None:
    broker = KafkaServer(tmp_path)
    carries_all(broker, MC_BUS_DEFAULT="kafka", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{broker.port}")


@pytest.mark.solo
@pytest.mark.rabbitmq
@pytest.mark.kafka
def test_three_brokers_carry_it_at_once_as_rules_say(tmp_path: Path) -> None:
    """And a rule that moves while all runs takes the next sentence along."""
    for name in ("kafka", "rabbit"):
        (tmp_path / name).mkdir()
    kafka, rabbit = Kafka(tmp_path / "kafka"), RabbitMQ(tmp_path / "rabbit")
    system = new_fleet(AMQP_URL=rabbit.url, KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{kafka.port}")
    try:
        kafka.start()
        rabbit.start()
        system.start()
        headers = {"Authorization": f"Bearer {system.credentials['api_token']}"}
        routes = f"{system.pages}/api/v1/events/routes"
        for domain, broker in (("business", "kafka"), ("system", "redis"), ("security", "rabbitmq")):
            rule = {"name": domain, "pattern": f"{domain}.#", "broker": broker}
            made = requests.post(routes, json=rule, headers=headers, timeout=20)
            assert made.status_code == 201, made.text
        crosses(system, caller(system))
        sent = kafka.seen("business")
        assert sent and not rabbit.seen("business")
        with redis.Redis.from_url(system.redis_url) as bundled:
            entries = {
                domain: sum(bundled.xlen(name) for name in bundled.scan_iter(f"mc:events:{domain}:*", _type="stream"))
                for domain in ("business", "system")
            }
        assert entries["system"] and not entries["business"], "nothing of it went over Redis"
        moved = requests.patch(f"{routes}/business", json={"broker": "rabbitmq"}, headers=headers, timeout=20)
        assert moved.status_code == 200, moved.text
        crosses(system, caller(system))
        assert len(kafka.seen("business")) == len(sent) and rabbit.seen("business")
        assert system.stop() == 0
    finally:
        system.end()
        rabbit.end()
        kafka.end()


def carries_all(broker: RabbitServer | KafkaServer, **settings: str) -> None:
    """A whole system of its own whose bus is ``broker``."""
    system = new_fleet(**settings)
    try:
        broker.start()
        system.start()
        crosses(system, caller(system))
        with redis.Redis.from_url(system.redis_url) as bundled:
            assert not list(bundled.scan_iter("mc:events:business*")), "nothing of it went over Redis"
        assert system.stop() == 0
    finally:
        system.end()
        broker.end()


def crosses(fleet: Fleet, call: Call) -> None:
    """The main job, from the sentence to the balance, in one trace."""
    before = held(call, "thandi")
    answer = say(call, "send 25 AZR to thandi")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "confirmed" and body["slots"] == {"amount": "25", "currency": "AZR", "name": "thandi"}
    entry = call("GET", f"/covenant/v1/transactions/{body['confirmation']['id']}").json()
    assert (entry["from"], entry["to"], entry["amount"]) == ("demo", "thandi", "25.00")
    assert (entry["height"], entry["hash"]) == (body["confirmation"]["height"], body["confirmation"]["hash"])
    until(lambda: held(call, "thandi") == before + 25, 10)
    assert call("GET", "/covenant/v1/verify").json()["valid"]

    address = f"{fleet.pages}/api/v1/traces/{answer.headers['X-Trace-Id']}"
    token = {"Authorization": f"Token {fleet.credentials['api_token']}"}

    def chain() -> list[tuple[str, str]]:
        found = requests.get(address, headers=token, timeout=10)
        if found.status_code != 200:
            return []
        spans = found.json()["spans"]
        children = {span["parent_span_id"]: span for span in spans}
        path: list[tuple[str, str]] = []
        parent = ""
        while span := children.get(parent):
            path.append((span["service"], span["kind"]))
            parent = span["span_id"]
        return path if len(path) == len(spans) else []

    until(lambda: chain() == CHAIN, 15, what="one unbroken chain of spans, and no span beside it")


def test_aegis_tokens_open_the_same_routes_and_bad_ones_say_which(fleet: Fleet) -> None:
    client = fleet.credentials["demo_client"]
    address = f"{fleet.gateway}/aegis/v1/token"
    form = {"grant_type": "client_credentials"}
    issued = requests.post(address, data=form, auth=(client["id"], client["secret"]), timeout=10)
    assert issued.status_code == 200, issued.text
    refused = requests.post(address, data=form, auth=(client["id"], "wrong"), timeout=10)
    assert refused.status_code == 401 and refused.json()["error"] == "invalid_client"
    token = issued.json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    keys = requests.get(f"{fleet.gateway}/aegis/.well-known/jwks.json", timeout=10).json()
    assert jwt.get_unverified_header(token)["kid"] in {key["kid"] for key in keys["keys"]}
    assert claims["iss"] == f"http://localhost:{fleet.ports['MC_GATEWAY_PORT']}/aegis"

    def read(bearer: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return requests.get(f"{fleet.gateway}/covenant/v1/head", headers=headers, timeout=10)

    assert read(token).status_code == 200
    failures = set()
    for bad in ("", "nonsense", token[:-6] + "AAAAAA"):
        answer = read(bad)
        assert answer.status_code == 401, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        failures.add(answer.json()["failure"])
    assert len(failures) >= 2, failures


def test_the_demo_key_opens_what_it_needs_and_the_ledger_is_written_by_nexus_alone(
    fleet: Fleet, call: Callable[..., requests.Response]
) -> None:
    for path in ("/nexus/v1/intents", "/mint/v1/totals", "/covenant/v1/head"):
        assert call("GET", path).status_code == 200, path
    body = {"from": "thandi", "to": "demo", "amount": "1.00", "currency": "AZR"}
    stolen = call("POST", "/covenant/v1/transactions", json=body)
    assert (stolen.status_code, stolen.json()["failure"]) == (403, "consumer_not_allowed")
    spoken = call("POST", "/nexus/v1/intents", json={"text": "hello"}, headers={"X-API-Key": fleet.nexus_key})
    assert (spoken.status_code, spoken.json()["failure"]) == (403, "consumer_not_allowed")
    assert call("POST", "/mint/v1/accounts", json={}).status_code == 405


def test_services_do_not_answer_strangers(fleet: Fleet) -> None:
    for name, path in (("covenant", "/v1/head"), ("mint", "/v1/accounts"), ("nexus", "/v1/intents")):
        direct = requests.get(fleet.service(name) + path, timeout=5)
        assert (direct.status_code, direct.json()["failure"]) == (401, "fleet_token_required")
        forged = requests.get(fleet.service(name) + path, headers={"X-Consumer": "admin"}, timeout=5)
        assert forged.status_code == 401


@pytest.mark.solo
@pytest.mark.parametrize("victim", ["covenant", "mint", "nexus"])
def test_killing_a_part_loses_and_doubles_nothing(fleet: Fleet, call: Call, victim: str) -> None:
    """Clients that repeat themselves under one key get there, and the money has moved once for each."""
    payee = f"payee-{victim}"
    pid = until(lambda: fleet.pid(victim), 20)
    keys = [f"{victim}-{os.getpid()}-{number}" for number in range(12)]
    confirmed: dict[str, str] = {}
    deadline = time.monotonic() + 60
    for turn, key in enumerate(keys):
        if turn == 4:
            os.kill(pid, signal.SIGKILL)
        while key not in confirmed:
            assert time.monotonic() < deadline, f"{len(confirmed)} of {len(keys)} got through"
            body = {"from": "demo", "to": payee, "amount": "1.00", "currency": "AZR"}
            if victim == "nexus":
                answer = say(call, f"send 1 AZR to {payee}", **{"Idempotency-Key": key})
            else:
                headers = {"Idempotency-Key": key, "X-API-Key": fleet.nexus_key}
                answer = call("POST", "/covenant/v1/transactions", json=body, headers=headers)
            if answer.status_code in {200, 201}:
                found = answer.json()
                confirmed[key] = found.get("confirmation", found)["id"]
            else:
                assert answer.status_code in {502, 503, 504}, answer.text
                assert answer.headers["content-type"] == "application/problem+json"
                time.sleep(0.2)
    assert len(set(confirmed.values())) == len(keys)
    until(lambda: held(call, payee) == len(keys), 20, what=f"{len(keys)} AZR with {payee}")
    assert call("GET", "/mint/v1/totals").json()["totals"]["AZR"] == "0.00"
    assert call("GET", "/covenant/v1/verify").json()["valid"]
    until(lambda: fleet.pid(victim) not in {0, pid}, 20, what=f"{victim} is started again")
