"""A number that never came is missing, until it comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.kit.events.gaps import MAX_HOLES, Heard, begin


@given(st.lists(st.integers(1, 60), max_size=80))
def test_what_is_missing_is_what_was_not_heard(numbers: list[int]) -> None:
    heard = Heard()
    for number in numbers:
        heard = heard.hear(number)
    missing = set(range(1, max(numbers, default=0) + 1)) - set(numbers)
    assert {number for start, end in heard.holes for number in range(start, end + 1)} == missing
    assert heard.missing == len(missing)
    assert list(heard.holes) == sorted(heard.holes)


def test_whoever_asked_for_the_whole_log_misses_what_came_before_its_first_event() -> None:
    assert begin(5, from_the_first=True).hear(5).holes == ((1, 4),)
    assert begin(5, from_the_first=False).hear(5) == Heard(5)
    assert begin(1, from_the_first=True).hear(1) == Heard(1)


def test_an_event_without_a_number_tells_nothing() -> None:
    assert Heard(3).hear(0) == Heard(3)


def test_many_holes_are_bounded_and_none_is_forgotten() -> None:
    heard = Heard()
    for number in range(2, 4 * MAX_HOLES, 2):
        heard = heard.hear(number)
    assert len(heard.holes) == MAX_HOLES
    assert heard.holes[0][0] == 1 and heard.missing >= 2 * MAX_HOLES - 1
