"""Services killed at the worst moment, with the real bus: nothing accepted is lost and nothing happens twice."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from sqlalchemy import create_engine, text

from services.kit.events.cloudevent import CloudEvent, decode, encode
from services.kit.events.transport import redis_wire
from services.kit.events.transport.base import Outgoing, partition_of
from tests.redis_server import RedisServer
from tests.unit.services.processes import ROOT, Home, Process
from tests.waiting import patient, until

RECORDED = "business.transaction.recorded"
PLACES = redis_wire.places_of("business")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that can be stopped and started again on its own data."""
    with RedisServer(tmp_path / "redis", durable=True) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, bus: RedisServer) -> Home:
    return Home(tmp_path / "home", bus.url)


@pytest.fixture
def covenant(home: Home) -> Iterator[Process]:
    process = Process(home, "covenant").start()
    yield process
    process.kill()


@pytest.fixture
def mint(home: Home) -> Iterator[Process]:
    process = Process(home, "mint").start()
    yield process
    process.kill()


def events(bus: RedisServer) -> list[CloudEvent]:
    with redis.Redis.from_url(bus.url) as client:
        rows: Any = [row for place in PLACES for row in client.xrange(redis_wire.stream_of(place))]
    return [decode(fields[b"e"]) for _, fields in rows]


def put(bus: RedisServer, event: CloudEvent | bytes) -> None:
    """Whoever has the password."""
    place = ("business", 3 if isinstance(event, bytes) else partition_of(Outgoing(event)))
    with redis.Redis.from_url(bus.url) as client:
        client.sadd(redis_wire.TOPICS, "business")
        body = event if isinstance(event, bytes) else encode(event)
        kind = RECORDED if isinstance(event, bytes) else event.type
        client.xadd(redis_wire.stream_of(place), {"e": body, "t": kind})


def rows(home: Home, service: str, query: str) -> list[tuple[Any, ...]]:
    """What a service's database answers."""
    engine = create_engine(f"sqlite:///{home.folder}/services/{service}.sqlite3")
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


def waiting(home: Home) -> int:
    return int(rows(home, "covenant", "SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL")[0][0])


class Writers:
    """Clients that keep recording transactions; they remember what was accepted."""

    def __init__(self, covenant: Process, count: int = 4) -> None:
        self.covenant = covenant
        self.accepted: dict[str, dict[str, Any]] = {}
        self.unsure: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            key = f"{number}-{turn}"
            body = {"from": f"payer{number}", "to": "till", "amount": "1.00", "currency": "AZR"}
            try:
                answer = self.covenant.post("/v1/transactions", body, headers={"Idempotency-Key": key}, timeout=5)
            except requests.RequestException:
                self.unsure.add(key)
                time.sleep(0.05)
                continue
            if answer.status_code == 201:
                self.accepted[key] = answer.json()


def balance(mint: Process, account: str = "till") -> str:
    answer = mint.get(f"/v1/accounts/{account}")
    return str(answer.json()["balances"]["AZR"]) if answer.status_code == 200 else "none"


def test_killing_both_services_under_load_loses_and_doubles_nothing(
    covenant: Process, mint: Process, bus: RedisServer, home: Home
) -> None:
    with Writers(covenant) as writers:
        for _ in range(3):
            time.sleep(random.uniform(0.2, 0.6))  # the moment of the kill is to be any moment
            covenant.kill()
            mint.kill()
            covenant.start()
            mint.start()
        until(lambda: len(writers.accepted) > 20, 20)
    verified = covenant.get("/v1/verify").json()
    assert verified["valid"], verified
    height = verified["head"]["height"]
    assert len(writers.accepted) <= height <= len(writers.accepted) + len(writers.unsure)
    for answer in list(writers.accepted.values())[::7]:
        assert covenant.get(f"/v1/transactions/{answer['id']}").json() == answer
    # A client that was left without an answer asks again with its key, and learns what happened.
    for key in writers.unsure:
        body = {"from": f"payer{key.partition('-')[0]}", "to": "till", "amount": "1.00", "currency": "AZR"}
        assert covenant.post("/v1/transactions", body, headers={"Idempotency-Key": key}).status_code == 201
    total = len(writers.accepted) + len(writers.unsure)
    assert covenant.get("/v1/head").json()["height"] == total
    until(lambda: balance(mint) == f"{total}.00", 15, what=f"every one of {total} is in the balance, once")
    assert mint.get("/v1/totals").json()["totals"] == {"AZR": "0.00"}
    assert {event.data["height"] for event in events(bus)} == set(range(1, total + 1))
    until(lambda: waiting(home) == 0, 5)


def test_a_crash_between_publishing_and_forgetting_publishes_again_and_moves_money_once(
    covenant: Process, mint: Process, bus: RedisServer, home: Home
) -> None:
    """The very state such a crash leaves behind: the event is on the bus and its row is not marked."""
    covenant.post("/v1/transactions", {"from": "a", "to": "till", "amount": 5, "currency": "AZR"})
    until(lambda: balance(mint) == "5.00", 10)
    until(lambda: waiting(home) == 0, 5)
    covenant.kill()
    (event,) = events(bus)
    engine = create_engine(f"sqlite:///{home.folder}/services/covenant.sqlite3")
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE outbox SET sent_at = NULL"),
        )
    engine.dispose()
    covenant.start()
    until(lambda: len(events(bus)) == 2, 5)
    assert [again.id for again in events(bus)] == [event.id] * 2
    covenant.post("/v1/transactions", {"from": "a", "to": "till", "amount": 1, "currency": "AZR"})
    until(lambda: balance(mint) != "5.00", 10)
    assert balance(mint) == "6.00"


def test_without_the_bus_covenant_serves_and_later_delivers_everything(
    covenant: Process, mint: Process, bus: RedisServer, home: Home
) -> None:
    body = {"from": "a", "to": "till", "amount": 2, "currency": "AZR"}
    assert covenant.post("/v1/transactions", body).status_code == 201
    until(lambda: balance(mint) == "2.00", 10)
    bus.kill()
    for _ in range(3):
        began = time.monotonic()
        assert covenant.post("/v1/transactions", body).status_code == 201
        assert time.monotonic() - began < patient(1)
    assert waiting(home) == 3
    degraded = until(lambda: covenant.get("/health").json()["status"] == "degraded" and covenant.get("/health"), 15)
    assert degraded.status_code == 200 and "waited" in degraded.json()["checks"]["outbox"]
    until(lambda: mint.get("/health").status_code == 503, 20)
    assert "bus" in mint.get("/health").json()["detail"]
    assert balance(mint) == "2.00", "what it has is still served"
    bus.start()
    until(lambda: balance(mint) == "8.00", 20)
    until(lambda: mint.get("/health").status_code == 200, 10)
    until(lambda: covenant.get("/health").json()["status"] == "ok", 10)


def test_a_member_that_died_for_good_leaves_its_events_to_the_others(home: Home, bus: RedisServer) -> None:
    data = {"id": "t1", "height": 1, "from": "a", "to": "till", "amount": "3.00", "currency": "AZR",
            "recorded_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    event = CloudEvent("e1", RECORDED, "covenant", time.time(), data, partition_key="ledger", sequence=1)
    put(bus, home.signed(event))
    argv = [sys.executable, "-m", "tests.bus_member", bus.url, RECORDED, "mint", "mint-gone", "1", "2"]
    gone = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
    assert gone.stdout is not None and gone.stdout.readline() == b"1\n", "it has the event in hand"
    gone.kill()
    gone.wait()
    gone.stdout.close()
    mint = Process(home, "mint").start()
    try:
        until(lambda: balance(mint) == "3.00", 15)
    finally:
        assert mint.stop() == 0


def test_an_event_that_can_not_be_handled_is_parked_and_holds_up_nothing(
    mint: Process, covenant: Process, bus: RedisServer, home: Home
) -> None:
    put(bus, b"not json")
    put(bus, home.signed(CloudEvent("bad", RECORDED, "covenant", time.time(), {"amount": "-1"})))
    put(bus, home.signed(CloudEvent("other", "business.other.thing", "covenant", time.time(), {})))
    covenant.post("/v1/transactions", {"from": "a", "to": "till", "amount": 4, "currency": "AZR"})
    until(lambda: balance(mint) == "4.00", 5)
    kept = "SELECT source, event_id, kind, reason, topic FROM parked ORDER BY kind"
    bad, odd = until(lambda: len(found := rows(home, "mint", kept)) == 2 and found, 10)
    assert (*bad[:3], bad[4]) == ("covenant", "bad", "Unfit", "business")
    assert "violates version 1 of business.transaction.recorded" in bad[3]
    assert odd[2] == "odd" and "not JSON" in odd[3]

    def said() -> str:
        health = mint.get("/health")
        assert health.status_code == 200, "it serves on"
        return str(health.json()["checks"]["events"])

    until(lambda: "1 parked" in said() and "1 entries that are no events" in said(), 10)
    # They are its own: the bus may forget them.
    bus.kill()
    mint.kill()
    bus.start()
    mint.start()
    assert len(rows(home, "mint", kept)) == 2


def test_what_the_ledger_holds_can_not_be_changed_behind_its_back_unnoticed(covenant: Process, home: Home) -> None:
    for _ in range(5):
        covenant.post("/v1/transactions", {"from": "a", "to": "b", "amount": 1, "currency": "AZR"})
    engine = create_engine(f"sqlite:///{home.folder}/services/covenant.sqlite3")
    with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
        connection.execute(text("UPDATE entries SET amount = 9900 WHERE height = 3"))
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER entries_no_update"))
        connection.execute(text("UPDATE entries SET amount = 9900 WHERE height = 3"))
    found = covenant.get("/v1/verify").json()
    assert not found["valid"] and found["broken_at"] == 3 and "content" in found["reason"] and found["last"] == 2
    with engine.begin() as connection:
        connection.execute(text("UPDATE entries SET amount = 100 WHERE height = 3"))
        connection.execute(text("DROP TRIGGER entries_no_delete"))
        connection.execute(text("DELETE FROM entries WHERE height = 5"))
    engine.dispose()
    found = covenant.get("/v1/verify").json()
    assert not found["valid"] and found["broken_at"] == 5 and found["reason"] == "the entry is missing"
