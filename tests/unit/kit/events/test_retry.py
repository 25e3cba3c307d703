"""Pauses grow, are bounded, are drawn from the whole range, and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.events.retry import Backoff

CHANCE = st.floats(0, 1, exclude_max=True)


@given(tries=st.integers(-3, 10**6), chance=CHANCE, first=st.floats(0.001, 10), most=st.floats(0.001, 10_000))
def test_a_pause_is_within_the_whole_range_and_never_over_its_bound(
    tries: int, chance: float, first: float, most: float
) -> None:
    policy = Backoff(first, most)
    assert 0 <= policy.pause(tries, chance) <= policy.longest(tries) <= most
    assert policy.pause(tries, 0) == 0
    assert policy.longest(tries + 1) >= policy.longest(tries)


def test_the_range_doubles_with_each_try_up_to_the_bound() -> None:
    assert [Backoff(0.5, 3).longest(tries) for tries in range(1, 6)] == [0.5, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("tries", "now", "expected"),
    [
        (1, 100.0, 100.5),
        (2, 100.0, 101.0),
        (3, 100.0, None),  # as often as it may be
        (2, 108.9, 109.9),
        (2, 109.1, None),  # the next try would come too late
    ],
)
def test_it_is_given_up_by_number_and_by_age(tries: int, now: float, expected: float | None) -> None:
    policy = Backoff(1.0, 60.0, attempts=3, age_s=10.0)
    assert policy.again_at(tries, 100.0, now, 0.5) == expected


def test_without_caps_it_is_never_given_up() -> None:
    assert Backoff(1.0, 60.0).again_at(10**6, 0.0, 1e9, 0.5) == 1e9 + 30
