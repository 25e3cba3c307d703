"""The log of the whole system holds what its services published, too."""

from __future__ import annotations

from typing import Any

import redis
import requests

from tests.fleet import Fleet
from tests.waiting import until

RECORDED = "business.transaction.recorded"


def pay(fleet: Fleet, memo: str) -> str:
    """A payment through the gateway; its trace id."""
    answer = requests.post(
        f"{fleet.gateway}/covenant/v1/transactions",
        json={"from": "archivist", "to": "till", "amount": "1.00", "currency": "AZR", "memo": memo},
        headers={"X-API-Key": fleet.nexus_key, "Idempotency-Key": memo},
        timeout=20,
    )
    assert answer.status_code == 201, answer.text
    return answer.headers["X-Trace-Id"]


def events(fleet: Fleet, **query: Any) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {fleet.credentials['api_token']}"}
    found: list[dict[str, Any]] = []
    address: str | None = f"{fleet.pages}/api/v1/events"
    while address:
        answer = requests.get(address, params=query, headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        body, query = answer.json(), {}
        found += body["results"]
        address = body["next"]
    return found


def test_what_a_service_published_is_in_the_log_in_order_with_its_trace(fleet: Fleet) -> None:
    traces = {f"archived {n}": pay(fleet, f"archived {n}") for n in range(5)}

    def archived() -> list[dict[str, Any]]:
        rows = events(fleet, type="business.#", after=0, page_size=500)
        return [row for row in rows if row["data"].get("memo") in traces]

    until(lambda: len(archived()) == len(traces), 30, what="the payments are in the log")
    rows = archived()
    assert [row["data"]["memo"] for row in rows] == list(traces)
    assert all(row["traceparent"].split("-")[1] == traces[row["data"]["memo"]] for row in rows)
    assert {(row["source"], row["stream"], row["type"], row["schema_version"]) for row in rows} == {
        ("covenant", "@covenant/ledger", RECORDED, 1)
    }
    stream = events(fleet, stream="@covenant/ledger", after=0, page_size=500)
    versions = [row["version"] for row in stream]
    assert versions == list(range(1, len(versions) + 1)), "each once, in order"
    assert len({row["id"] for row in stream}) == len(stream)
    [one] = [row for row in stream if row["data"].get("memo") == "archived 0"]
    headers = {"Authorization": f"Bearer {fleet.credentials['api_token']}"}
    detail = requests.get(f"{fleet.pages}/api/v1/events/{one['id']}?source=covenant", headers=headers, timeout=20)
    assert detail.json() == one


def test_what_the_bus_lost_before_the_archive_read_it_is_fetched_from_the_publisher(fleet: Fleet) -> None:
    pay(fleet, "before the loss")
    until(lambda: "before the loss" in memos(fleet), 30)
    fleet.ctl("stop", "relay")
    try:
        for n in range(4):
            pay(fleet, f"lost {n}")
        with redis.Redis.from_url(fleet.redis_url) as bus:
            until(lambda: any(b"lost 3" in entry for entry in on_the_bus(bus)), 20, what="all are on the bus")
            for stream in bus.scan_iter("mc:events:business*"):
                bus.delete(stream)
    finally:
        fleet.ctl("start", "relay")
    until(lambda: "lost 3" in memos(fleet), 60, what="the log has what the bus lost")
    stream = events(fleet, stream="@covenant/ledger", after=0, page_size=500)
    assert [row["version"] for row in stream] == list(range(1, len(stream) + 1)), "each once, in order"


def memos(fleet: Fleet) -> list[str]:
    return [row["data"].get("memo", "") for row in events(fleet, stream="@covenant/ledger", after=0, page_size=500)]


def on_the_bus(bus: redis.Redis) -> list[bytes]:
    streams = list(bus.scan_iter("mc:events:business*", _type="stream"))
    return [value for name in streams for _, entry in bus.xrange(name) for value in entry.values()]
