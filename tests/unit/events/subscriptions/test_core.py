"""What goes next, what waits behind what, and when an endpoint is left alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.events.subscriptions.core import (
    MOST_REST_S,
    THRESHOLD,
    Desk,
    Health,
    Item,
    Outcome,
    Verdict,
    after,
    dead,
    judged,
)

TAKEN, AGAIN, REST = (
    Outcome(Verdict.TAKEN, "delivered"),
    Outcome(Verdict.AGAIN, "http_5xx"),
    Outcome(Verdict.REST, "refused"),
)


def items(keys: str, start: int = 1) -> list[Item]:
    return [Item(key, object(), at) for at, key in enumerate(keys, start)]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.TAKEN),
        (204, Verdict.TAKEN),
        (301, Verdict.NEVER),
        (400, Verdict.NEVER),
        (401, Verdict.NEVER),
        (408, Verdict.AGAIN),
        (410, Verdict.GONE),
        (425, Verdict.AGAIN),
        (429, Verdict.REST),
        (500, Verdict.AGAIN),
        (503, Verdict.REST),
        (504, Verdict.AGAIN),
        (100, Verdict.AGAIN),
        (999, Verdict.AGAIN),
    ],
)
def test_what_an_answer_means(status: int, verdict: Verdict) -> None:
    assert judged(status)[0] is verdict


def test_a_breaker_opens_after_failures_in_a_row_and_closes_with_the_first_that_is_taken() -> None:
    health = Health()
    for n in range(THRESHOLD - 1):
        health = after(health, AGAIN, 100.0 + n, 0.5)
        assert not health.opened_until and health.most(200.0, 8) == 8
    health = after(health, AGAIN, 110.0, 0.5)
    assert health.opened_until == 110.5 and health.most(110.4, 8) == 0
    assert health.most(110.5, 8) == 1 and health.probing, "one at a time tries"
    worse = after(health, AGAIN, 111.0, 1.0)
    assert worse.opened_until == 113.0, "pauses double"
    assert after(worse, TAKEN, 113.0, 0.5) == Health()


def test_an_endpoint_that_can_not_be_reached_rests_at_once_and_as_long_as_it_asks_for() -> None:
    assert after(Health(), REST, 100.0, 0.5).opened_until == 100.5
    asked = Outcome(Verdict.REST, "busy", retry_after_s=30.0)
    assert after(Health(), asked, 100.0, 0.0).opened_until == 130.0
    far = Outcome(Verdict.REST, "busy", retry_after_s=1e9)
    assert after(Health(), far, 100.0, 0.0).opened_until == 100.0 + MOST_REST_S


def test_an_endpoint_is_given_up_after_its_time_and_not_for_one_event_a_day() -> None:
    health = after(Health(), REST, 100.0, 0.5)
    assert not dead(health, 159.0, 60.0) and dead(health, 160.0, 60.0)
    once = after(Health(), AGAIN, 100.0, 0.5)
    assert not dead(once, 1e9, 60.0)


def test_one_of_a_key_at_a_time_and_the_position_waits_for_the_slowest() -> None:
    desk = Desk(0)
    desk.add(items("aab"), 5)
    first, other = desk.next(0.0, 8), desk.next(0.0, 8)
    assert first and other and (first.position, other.position) == (1, 3)
    assert desk.next(0.0, 8) is None and desk.position == 0
    desk.done(other)
    assert desk.position == 0
    desk.done(first)
    assert desk.position == 1
    second = desk.next(0.0, 8)
    assert second and second.position == 2
    desk.done(second)
    assert desk.position == 5, "past what was not wanted too"


def test_what_fell_holds_its_key_until_that_is_stored() -> None:
    desk = Desk(0)
    desk.add(items("aba"), 3)
    fell = desk.next(0.0, 1)
    assert fell and [one.position for one in desk.fell(fell)] == [3]
    assert [one.position for one in desk.add(items("ab", 4), 5)] == [4], "read before it was stored"
    assert [desk.next(0.0, 8) is not None for _ in range(3)] == [True, False, False], "one b under way"
    desk.settled(set(), {"a"})
    assert desk.add(items("a", 6), 6) == []


def test_what_the_endpoint_did_not_take_goes_again_in_its_place() -> None:
    desk = Desk(0)
    desk.add(items("aa"), 2)
    first = desk.next(0.0, 1)
    assert first
    desk.back(first)
    assert desk.position == 0 and desk.next(0.0, 1) is first


def test_a_probe_is_a_fresh_event_where_there_is_one() -> None:
    desk = Desk(0)
    letter = Item("odd", object(), letter=SimpleNamespace(pk=7))
    desk.retry(letter)
    desk.add(items("a"), 1)
    probe = desk.next(0.0, 1, probing=True)
    assert probe and probe.key == "a" and desk.knows(7)
    desk.back(probe)
    assert desk.next(0.0, 1) is letter, "otherwise what waited longest"
    desk.done(letter)
    assert desk.knows(7), "until that is stored"
    desk.settled({7}, {"odd"})
    assert not desk.knows(7)


def test_a_rate_spreads_deliveries() -> None:
    desk, now, sent = Desk(0, rate=10.0), 100.0, []
    desk.add(items("abcdefghij"), 10)
    while len(sent) < 10:
        if desk.next(now, 99) is not None:
            sent.append(now)
            continue
        wake = desk.wake(now)
        assert wake is not None and now < wake <= now + 0.1001
        now = wake
    assert sent[-1] - sent[0] == pytest.approx(0.85, abs=0.06)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.data())
def test_whatever_comes_of_them_a_keys_events_go_in_order_and_none_is_passed_over(
    keys: list[str], data: st.DataObject
) -> None:
    desk = Desk(0)
    desk.add(items("".join(keys)), len(keys))
    taken: list[Item] = []
    settled: set[int] = set()
    under_way: list[Item] = []
    for _ in range(200):
        if (item := desk.next(0.0, 3)) is not None:
            assert item.key not in {one.key for one in under_way}
            under_way.append(item)
        if not under_way:
            break
        if data.draw(st.booleans()):
            landed = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            match data.draw(st.sampled_from(["done", "fell", "back"])):
                case "done":
                    desk.done(landed)
                    taken.append(landed)
                    settled.add(landed.position)
                case "fell":
                    settled |= {landed.position, *(one.position for one in desk.fell(landed))}
                    desk.settled(set(), {landed.key} if data.draw(st.booleans()) else set())
                case "back":
                    desk.back(landed)
        assert set(range(1, desk.position + 1)) <= settled
    for key in "abc":
        order = [one.position for one in taken if one.key == key]
        assert order == sorted(order)
