"""The waits of who fails: growing, forgotten, bounded in memory, and never another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.people.throttle import Throttle, source_of


def throttle(keys: int = 10_000) -> Throttle:
    return Throttle(free=3, first=5, most=60, quiet=600, keys=keys)


def test_the_wait_doubles_with_each_failure_up_to_the_most() -> None:
    tried = throttle()
    now, waits = 0.0, []
    for _ in range(10):
        waits.append(tried.wait("ann", now))
        now += waits[-1]
        tried.failed("ann", now)
    assert waits == [0, 0, 0, 5, 10, 20, 40, 60, 60, 60]
    assert tried.wait("bob", now) == 0


def test_asking_too_early_prolongs_nothing() -> None:
    tried = throttle()
    for _ in range(3):
        tried.failed("ann", 0.0)
    assert [tried.wait("ann", now) for now in (0.0, 1.0, 4.0, 5.0)] == [5, 4, 1, 0]


def test_quiet_or_success_forgets() -> None:
    tried = throttle()
    for _ in range(9):
        tried.failed("ann", 0.0)
        tried.failed("bob", 0.0)
    tried.forget("bob")
    assert tried.wait("bob", 0.0) == 0
    assert tried.wait("ann", 59.0) == 1 and tried.wait("ann", 600.0) == 0
    tried.failed("ann", 600.0)
    assert tried.wait("ann", 600.0) == 0


def test_a_flood_of_names_costs_bounded_memory() -> None:
    tried = throttle(keys=100)
    for number in range(1000):
        tried.failed(f"name{number}", number / 100)
    assert len(tried._failures) == 100


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=60))
def test_no_wait_is_longer_than_the_most(gaps: list[float]) -> None:
    tried, now = throttle(), 0.0
    for gap in gaps:
        now += gap
        tried.failed("ann", now)
        assert 0 <= tried.wait("ann", now) <= 60


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_one_party_is_one_source(address: str, source: str) -> None:
    assert source_of(address) == source
