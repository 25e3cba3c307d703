"""A relay that is killed under a redrive and a replay: both go on from where they were, and count each event once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.relayed import Relayed, relayed
from tests.waiting import until
from tests.webhook_endpoint import Endpoint

__all__ = ["relayed"]

EVENTS, KEYS, CONCURRENCY = 400, 40, 6

PREPARE = f"""
from apps.events.actions import publish
from apps.events.letters import actions, queue
from apps.events.models import Event
from apps.events.subscriptions.actions import create
from apps.lib import clock
for n in range({EVENTS}):
    publish("test.thing.done", {{{{"n": n}}}}, stream=f"k{{{{n % {KEYS}}}}}")
about = {{{{"patterns": ["test.#"], "handshake": False, "concurrency": {CONCURRENCY}}}}}
redriven, _ = create(about | {{{{"name": "redriven", "url": "{{url}}"}}}}, "now")
replayed, _ = create(about | {{{{"name": "replayed", "url": "{{other}}"}}}}, "now")
for n, event in enumerate(Event.objects.filter(type="test.thing.done").order_by("position")):
    if n < {KEYS}:
        queue.fail(redriven, event, queue.Failure("http_4xx", "no", "", permanent=True), clock.wall())
    else:
        queue.park(redriven, event, clock.wall())
actions.redrive(redriven, {{{{}}}}, actor="ann")
actions.replay(replayed, {{{{"types": ["test.#"]}}}}, actor="ann")
"""


def numbers(requests: list[dict[str, Any]]) -> list[int]:
    return [json.loads(one["body"])["data"]["n"] for one in requests]


def test_a_killed_relay_goes_on_with_its_jobs_and_counts_nothing_twice(relayed: Relayed, tmp_path: Path) -> None:
    ask = relayed.ask
    with Endpoint(tmp_path) as endpoint:
        relayed.shell(PREPARE.format(url=endpoint.url("/slow/0.01"), other=endpoint.url("/slow/0.02")))
        relayed.start()
        for share in (0.2, 1.2):
            wanted = int(EVENTS * share)
            until(lambda wanted=wanted: len(endpoint.received()) >= wanted, 90)  # type: ignore[misc]
            relayed.restart()
            assert ask("SELECT count(*) FROM events_redrivejob WHERE state = 'running' AND holder <> ''") != [(0,)]
        until(lambda: ask("SELECT count(*) FROM events_redrivejob WHERE state = 'done'") == [(2,)], 120)
        relayed.stop()
        requests = endpoint.received()
    jobs = ask("SELECT kind, total, taken, succeeded, failed, holder FROM events_redrivejob ORDER BY id")
    # A redrive begins with the heads: what lies behind each comes to it as that is freed.
    assert jobs == [("redrive", KEYS, EVENTS, EVENTS, 0, ""), ("replay", EVENTS, EVENTS, EVENTS, 0, "")]
    assert ask("SELECT DISTINCT state, count(*) FROM events_deadletter") == [("resolved", EVENTS)]
    for path in ("/slow/0.01", "/slow/0.02"):
        sent = numbers([one for one in requests if one["path"] == path])
        assert sorted(set(sent)) == list(range(EVENTS))
        for key in range(KEYS):
            first = [n for n in dict.fromkeys(sent) if n % KEYS == key]
            assert first == sorted(first), "each key in order"
        # What was under way at a kill, and not stored, goes again: at least once, under the same id.
        assert max(Counter(sent).values()) <= 3 and len(sent) - EVENTS <= 2 * 20
    assert len({(one["path"], one["headers"]["webhook-id"]) for one in requests}) == 2 * EVENTS
