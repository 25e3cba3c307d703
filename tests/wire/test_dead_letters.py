"""A poison event in the whole system: from mint's handler to a dead letter, and by operators' words back to success."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import requests
from sqlalchemy import create_engine, text

from services.kit.events import keys
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.signing import Ring
from services.kit.events.transport.base import Outgoing
from services.kit.events.transport.connect import connect
from tests.fleet import Fleet, new_fleet
from tests.waiting import patient, until

pytestmark = pytest.mark.solo

RECORDED = "business.transaction.recorded"


@dataclass
class Scene:
    """Mission Control as an operator has it, and a hand that speaks as covenant."""

    fleet: Fleet

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """What the API answers; its status must be a success."""
        answer = self.call(method, path, **body)
        assert answer.ok, answer.text
        return answer.json()

    def call(self, method: str, path: str, **body: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.fleet.credentials['api_token']}"}
        url = f"{self.fleet.pages}/api/v1/events/{path}"
        return requests.request(method, url, headers=headers, json=body or None, timeout=20)

    def record(self, key: str, to: str, amount: str = "1.00") -> CloudEvent:
        """A transaction that covenant's schema allows, whatever mint thinks of it."""
        data = {"id": str(uuid.uuid4()), "height": 10**6, "from": "bank", "to": to, "amount": amount, "currency": "AZR",
                "memo": "", "recorded_by": "demo", "recorded_at": "2026-01-01T00:00:00Z", "previous_hash": "0" * 64,
                "hash": "f" * 64}  # fmt: skip
        event = CloudEvent(str(uuid.uuid4()), RECORDED, "covenant", time.time(), data, partition_key=key)
        ring = Ring.of(keys.parse((self.fleet.home / "secrets" / "mc_bus_keys").read_text(), "the file"))

        async def send() -> None:
            transport = connect(self.fleet.redis_url)
            assert await transport.publish([Outgoing(ring.sign(event, "covenant"))]) == [None]
            await transport.close()

        asyncio.run(send())
        return event

    def open(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "dead-letters?subscription=mint&open=true&page_size=100")["results"])

    def letter(self, known: dict[str, Any], needed: str) -> dict[str, Any]:
        """The letter, once it has what is needed."""
        found: dict[str, Any] = self.ask("GET", f"dead-letters/{known['id']}")
        return found if found[needed] else {}

    def balance(self, account: str) -> str:
        answer = requests.get(
            f"{self.fleet.gateway}/mint/v1/accounts/{account}",
            headers={"X-API-Key": self.fleet.credentials["demo_api_key"]},
            timeout=20,
        )
        return str(answer.json()["balances"]["AZR"]) if answer.ok else "none"

    def mend(self) -> None:
        """The cause is gone: mint does not take the name for another's any more."""
        engine = create_engine(f"sqlite:///{self.fleet.home}/services/mint.sqlite3")
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM names WHERE account = 'paulol'"))
        engine.dispose()

    def job(self, number: int, *states: str) -> dict[str, Any]:
        """The job, once it is in one of ``states``."""

        def look() -> dict[str, Any] | None:
            found = self.ask("GET", f"jobs/{number}")
            return found if found["state"] in states else None

        found = until(look, 40, what=f"job {number} to be {states}")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    system = new_fleet()
    try:
        system.start()
        yield Scene(system)
        assert system.stop() == 0
    finally:
        system.end()


def test_a_poison_event_is_seen_grouped_redriven_and_edited(scene: Scene) -> None:
    scene.record("first", "paulol")
    until(lambda: scene.balance("paulol") == "1.00", 40)
    began = time.monotonic()
    poison = [scene.record(f"poison-{number}", "pau1o1") for number in range(3)]
    behind = scene.record("poison-0", "neighbour")
    # It fails for good at its first attempt.
    letters = until(lambda: len(scene.open()) == 4 and scene.open(), 40, every=0.2)
    took = time.monotonic() - began
    assert took < patient(10), f"{took:.1f} s from the event to its row"
    failed = {one["event_id"]: one for one in letters if one["state"] == "failed"}
    assert set(failed) == {one.id for one in poison}
    # Report and event come to the log by partitions of their own.
    one = until(lambda: scene.letter(failed[poison[0].id], "data"), 40)
    assert (one["source"], one["type"], one["topic"], one["reason"], one["behind"]) == (
        "covenant",
        RECORDED,
        "business",
        "handler",
        1,
    )
    assert "looks like" in one["error"] and "BadTransaction" in one["stack"] and one["data"]["to"] == "pau1o1"
    [group] = scene.ask("GET", "dead-letters/groups?subscription=mint")
    assert (group["count"], group["failed"], group["subscription"]) == (3, 3, "mint")

    wanted = {"subscription": "mint", "filter": {"fingerprint": group["fingerprint"]}}
    plan = scene.ask("POST", "jobs/redrive", **wanted, dry_run=True)
    assert (plan["total"], plan["waiting"], plan["by_type"]) == (3, 1, {RECORDED: 3})
    job = scene.job(scene.ask("POST", "jobs/redrive", **wanted, canary=1)["id"], "paused", "confirm", "done")
    assert job["state"] == "paused" and "1 of the first 1 failed" in job["reason"], "the cause is still there"
    scene.ask("POST", f"jobs/{job['id']}/cancel")

    until(lambda: scene.letter(failed[poison[2].id], "data"), 40)
    # One of them was simply wrong: another name, a new id, and the original named as its cause.
    edit = scene.ask(
        "POST", f"dead-letters/{failed[poison[2].id]['id']}/edit", data={**poison[2].data, "to": "thandiwe"}
    )
    until(lambda: scene.balance("thandiwe") == "1.00", 40)
    assert edit["causation_id"] == poison[2].id and edit["event_id"] != poison[2].id
    until(lambda: scene.ask("GET", f"dead-letters/{edit['id']}")["state"] == "resolved", 40)
    original = scene.ask("GET", f"dead-letters/{failed[poison[2].id]['id']}")
    assert (original["state"], original["replaced_by"]) == ("resolved", edit["event_id"])

    scene.mend()
    job = scene.job(scene.ask("POST", "jobs/redrive", **wanted, canary=1)["id"], "confirm")
    assert job["taken"] == job["succeeded"] == 1
    scene.ask("POST", f"jobs/{job['id']}/resume")
    assert scene.job(job["id"], "done")["failed"] == 0
    until(lambda: scene.open() == [], 40, what="the count to fall to zero")
    assert scene.balance("pau1o1") == "2.00" and scene.balance("neighbour") == "1.00"
    assert scene.ask("GET", f"dead-letters?event_id={behind.id}")["results"][0]["state"] == "resolved"


def test_parked_rows_survive_a_bus_that_loses_everything_and_a_restart(scene: Scene) -> None:
    scene.record("second", "ruvimbo")
    until(lambda: scene.balance("ruvimbo") == "1.00", 40)
    poison = scene.record("poison-9", "ruvirnbo")
    until(lambda: [one["event_id"] for one in scene.open()] == [poison.id], 40)
    with redis.Redis.from_url(scene.fleet.redis_url) as bus:
        for name in bus.scan_iter("mc:events:*"):
            bus.delete(name)
    scene.fleet.ctl("restart", "mint")
    [letter] = scene.open()
    assert scene.call("POST", f"dead-letters/{letter['id']}/discard", note="nobody's").ok
    until(lambda: scene.open() == [], 40)
    engine = create_engine(f"sqlite:///{scene.fleet.home}/services/mint.sqlite3")

    def rows() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT COUNT(*) FROM parked")).scalar_one())

    until(lambda: rows() == 0, 40, what="mint to hear the word")
    engine.dispose()


def test_two_operators_at_once_redrive_it_once_and_one_is_told_so(scene: Scene) -> None:
    scene.record("third", "malik")
    until(lambda: scene.balance("malik") == "1.00", 40)
    scene.record("poison-11", "ma1ik")
    until(lambda: len(scene.open()) == 1, 40)
    wanted = {"subscription": "mint", "filter": {}}
    with ThreadPoolExecutor(2) as operators:
        answers = list(operators.map(lambda _: scene.call("POST", "jobs/redrive", **wanted), range(2)))
    made = [answer for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code == 409]
    assert len(made) == len(refused) == 1, [answer.text for answer in answers]
    assert refused[0].json()["failure"] in {"already_running", "nothing_to_redrive"}
    job = scene.job(made[0].json()["id"], "done")
    assert (job["taken"], job["failed"]) == (1, 1)
