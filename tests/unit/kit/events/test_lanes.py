"""A key's order holds whatever fails, and a key that waits holds up nobody else's."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.lanes import RETRY, Lane, Outcome
from services.kit.events.transport.base import Delivery


def delivery(name: str, attempt: int = 1, position: str = "0") -> Delivery:
    """``a3`` is the third event of key a."""
    event = CloudEvent(name, "t.thing.done", "tests", 0.0, {}, partition_key=name[0])
    return Delivery("t", 0, position, attempt, b"", event)


def names(batch: list[Delivery]) -> list[str]:
    return [one.event.id for one in batch if one.event]


def filled(*given: str) -> Lane:
    lane = Lane()
    lane.add([delivery(name) for name in given])
    return lane


OK, FAILED, HELD, LATER = Outcome("handled"), Outcome("failed", "no", "ValueError"), Outcome("held"), Outcome("later")
BROKEN = Outcome("failed", "never", "Permanent", permanent=True)


def half() -> float:
    return 0.5


def test_a_failed_event_waits_with_its_key_and_the_others_go_on() -> None:
    lane = filled("a1", "b1", "a2", "b2", "a3")
    batch = lane.take(0.0, 4)
    verdict = lane.settle(batch, [FAILED, OK, HELD, OK], 0.0, half)
    assert names(verdict.done) == ["b1", "b2"] and not verdict.park
    assert lane.take(0.0, 4) == [], "a3 came later, and waits as well"
    lane.add([delivery("a4"), delivery("b3")])
    assert names(lane.take(0.0, 4)) == ["b3"]
    due = lane.wakes_at()
    assert due == RETRY.pause(1, 0.5)
    assert lane.take(due - 0.01, 4) == []
    again = lane.take(due, 4)
    assert names(again) == ["a1"], "it is tried alone"
    assert names(lane.settle(again, [OK], due, half).done) == ["a1"]
    assert names(lane.take(due, 4)) == ["a2", "a3", "a4"]


def test_after_its_last_try_it_is_parked_and_what_follows_is_taken_in_order() -> None:
    lane = filled("a1", "a2", "b1")
    now = 0.0
    lane.settle(lane.take(now, 9), [FAILED, HELD, OK], now, half)
    for tries in range(2, RETRY.attempts + 1):
        now = lane.wakes_at()
        verdict = lane.settle(lane.take(now, 9), [FAILED], now, half)
        assert bool(verdict.park) == (tries == RETRY.attempts)
    (park,) = verdict.park
    assert (park.tries, park.since) == (RETRY.attempts, now)
    assert lane.take(now + 99, 9) == [] and lane.wakes_at() == math.inf, "nothing overtakes until it is a row"
    lane.parked(park.delivery)
    assert names(lane.take(now, 9)) == ["a2"]


def test_a_permanent_failure_is_parked_at_once() -> None:
    lane = filled("a1", "a2")
    verdict = lane.settle(lane.take(0.0, 9), [BROKEN, HELD], 0.0, half)
    assert [park.tries for park in verdict.park] == [1]


def test_what_a_batch_did_not_reach_is_taken_again_in_order() -> None:
    lane = filled("a1", "b1", "a2", "c1")
    lane.settle(lane.take(0.0, 4), [FAILED, OK, LATER, LATER], 0.0, half)
    assert names(lane.take(0.0, 4)) == ["c1"], "a2 waits behind a1"
    assert len(lane) == 2


def test_what_was_not_handled_at_all_is_taken_as_it_was() -> None:
    lane = filled("a1", "b1", "a2")
    lane.put_back(lane.take(0.0, 2))
    batch = lane.take(0.0, 3)
    assert names(batch) == ["a1", "b1", "a2"]
    lane.settle(batch, [FAILED, OK, HELD], 0.0, half)
    due = lane.wakes_at()
    lane.put_back(lane.take(due, 3))
    assert names(lane.take(due, 3)) == ["a1"] and len(lane) == 2


def test_odd_entries_wait_for_nobody_and_hold_up_nobody() -> None:
    lane = filled("a1")
    odd = Delivery("t", 0, "1", 1, b"?", None, "not JSON")
    lane.settle(lane.take(0.0, 1), [FAILED], 0.0, half)
    lane.add([odd, delivery("b1"), delivery("a2")])
    first, second = lane.take(0.0, 9)
    assert first is odd and second.event is not None and second.event.id == "b1"


def test_care_is_taken_of_the_first_events_and_of_what_was_delivered_before() -> None:
    lane = Lane(careful=2)
    lane.add([delivery("a1"), delivery("a2"), delivery("a3"), delivery("a4", attempt=2)])
    for expected in (True, True, False, True):
        batch = lane.take(0.0, 1)
        assert lane.careful(batch) is expected
        lane.settle(batch, [OK], 0.0, half)


@given(
    events=st.lists(st.sampled_from("abc"), max_size=30),
    chances=st.lists(st.sampled_from(["ok", "ok", "fail", "later", "away"]), max_size=200),
    most=st.integers(1, 7),
)
def test_whatever_fails_every_key_is_settled_in_order_and_nothing_is_lost(
    events: list[str], chances: list[str], most: int
) -> None:
    counts = dict.fromkeys("abc", 0)
    given_in: list[str] = []
    for key in events:
        counts[key] += 1
        given_in.append(f"{key}{counts[key]}")
    lane = filled(*given_in)
    script, now, settled = iter(chances), 0.0, []
    while len(lane):
        batch = lane.take(now, most)
        if not batch:
            now = max(now, lane.wakes_at())
            continue
        if next(script, "ok") == "away":
            lane.put_back(batch)
            continue
        failed: set[str] = set()
        outcomes = []
        for one in names(batch):
            what = "held" if one[0] in failed else next(script, "ok")
            if what == "later" and outcomes:
                outcomes += [LATER] * (len(batch) - len(outcomes))
                break
            if what == "fail":
                failed.add(one[0])
            outcomes.append({"held": HELD, "fail": FAILED}.get(what, OK))
        verdict = lane.settle(batch, outcomes, now, half)
        settled += names(verdict.done)
        for park in verdict.park:
            settled += names([park.delivery])
            lane.parked(park.delivery)
    assert sorted(settled) == sorted(given_in)
    for key in "abc":
        assert [name for name in settled if name[0] == key] == [name for name in given_in if name[0] == key]
