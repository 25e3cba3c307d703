"""A relay that is killed under load loses nothing for a webhook, and each key stays in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.relayed import Relayed, relayed
from tests.waiting import until
from tests.webhook_endpoint import Endpoint

__all__ = ["relayed"]

EVENTS, KEYS = 600, 9

PREPARE = """
from apps.events.subscriptions.actions import create
create({{"name": "hook", "patterns": ["test.#"], "url": "{url}", "handshake": False, "concurrency": 6}}, "beginning")
"""
LOAD = f"""
from apps.events.actions import publish
for n in range({EVENTS}):
    publish("test.thing.done", {{"n": n}}, stream=f"k{{n % {KEYS}}}")
"""


def first_times(requests: list[dict[str, Any]]) -> list[int]:
    """Numbers in the order in which each came for the first time."""
    return list(dict.fromkeys(json.loads(one["body"])["data"]["n"] for one in requests))


def test_a_killed_relay_loses_nothing_and_keeps_every_keys_order(relayed: Relayed, tmp_path: Path) -> None:
    with Endpoint(tmp_path) as endpoint:
        relayed.shell(PREPARE.format(url=endpoint.url("/slow/0.01")))
        load = relayed.begin("shell", "-v0", "-c", LOAD)
        relayed.start()
        for share in (0.1, 0.4, 0.7):
            wanted = int(EVENTS * share)
            until(lambda wanted=wanted: len(first_times(endpoint.received())) >= wanted, 60)  # type: ignore[misc]
            relayed.restart()
        assert load.wait(120) == 0
        until(lambda: len(first_times(endpoint.received())) == EVENTS, 90)
        relayed.stop()
        requests = endpoint.received()
    order = first_times(requests)
    assert sorted(order) == list(range(EVENTS))
    for key in range(KEYS):
        assert [n for n in order if n % KEYS == key] == [n for n in range(EVENTS) if n % KEYS == key]
    # Again came at most what was under way and not stored at each kill.
    assert len(requests) - EVENTS <= 3 * 40
    ids = {one["headers"]["webhook-id"] for one in requests}
    assert len(ids) == EVENTS, "a repeated one is known by its id"
    assert relayed.ask("SELECT count(*) FROM events_deadletter") == [(0,)]
