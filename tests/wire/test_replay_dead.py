"""A replay of many events into an endpoint that is dead: it waits and says so, costs no event a try, and stays small.

``MC_TEST_REPLAYED=100000`` makes it many.
"""

from __future__ import annotations

import os

import psutil

from apps.events.letters.pace import IN_HAND
from tests.relayed import Relayed, relayed
from tests.waiting import free_port, until

__all__ = ["relayed"]

EVENTS = int(os.environ.get("MC_TEST_REPLAYED", "700"))
MOST_MB = 64
"""What the relay may grow by under the replay."""

PREPARE = f"""
from apps.events.actions import publish_all
from apps.events.storing import Draft
from apps.events.subscriptions.actions import create
for start in range(0, {EVENTS}, 1000):
    numbers = range(start, min(start + 1000, {EVENTS}))
    publish_all([Draft("test.thing.done", {{{{"n": n}}}}, stream=f"k{{{{n % 5000}}}}") for n in numbers])
create({{{{"name": "dead", "url": "{{url}}", "patterns": ["test.#"], "handshake": False}}}}, "now")
"""
REPLAY = """
from apps.events.letters import actions
from apps.events.models import Subscription
print(actions.replay(Subscription.objects.get(name="dead"), {"types": ["test.#"]}, actor="ann").total)
"""
ACT = """
from apps.events.letters import actions
from apps.events.letters.models import RedriveJob
actions.{}(RedriveJob.objects.get(), "ann")
"""


def test_a_replay_into_a_dead_endpoint_waits_says_so_burns_nothing_and_can_be_cancelled(relayed: Relayed) -> None:
    ask = relayed.ask

    def paused() -> str:
        [(state, reason, taken)] = ask("SELECT state, reason, taken FROM events_redrivejob")
        assert taken <= IN_HAND
        return str(reason) if state == "paused" else ""

    relayed.shell(PREPARE.format(url=f"http://127.0.0.1:{free_port()}/"), 600)
    relayed.start()
    until(lambda: ask("SELECT holder FROM events_subscription WHERE name = 'dead'") != [("",)], 60)
    process = psutil.Process(relayed.relay.pid)
    before = process.memory_info().rss
    relayed.shell(REPLAY)
    reason = until(paused, 90)
    assert "dead can't be reached, its breaker is open" in reason and "connection refused" in reason
    for _ in range(2):
        # An operator who won't believe it.
        relayed.shell(ACT.format("resume"))
        until(paused, 90)
    letters = ask("SELECT state, count(*), sum(attempts) FROM events_deadletter GROUP BY state ORDER BY state")
    assert sum(count for _, count, _ in letters) == IN_HAND
    assert sum(attempts for _, _, attempts in letters) == 0, "the endpoint's fault is no event's"
    assert {state for state, _, _ in letters} <= {"parked", "redriving"}
    [(tries,)] = ask("SELECT count(*) FROM events_attempt")
    grown = (process.memory_info().rss - before) / 2**20
    print(f"{EVENTS:,} events: {tries} tries, the relay grew by {grown:.0f} MB")
    assert tries < 50 and grown < MOST_MB
    relayed.shell(ACT.format("cancel"))
    assert ask("SELECT count(*) FROM events_deadletter") == [(0,)]
    assert ask("SELECT state FROM events_redrivejob") == [("cancelled",)]
    relayed.stop()
