"""Time in state, and the worst state of each span of time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.health.spells import (
    HEALTH_RANK,
    Change,
    Spell,
    buckets,
    service_health,
    spells,
    totals,
    worst_breaker,
)

STATES = st.sampled_from(["unknown", "healthy", "unhealthy"])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], str, float]:
    """Changes that follow each other between second 0 and 1000, and the present that they lead to."""
    times = sorted(draw(st.lists(st.integers(1, 999), max_size=8, unique=True)))
    states = draw(st.lists(STATES, min_size=len(times) + 1, max_size=len(times) + 1))
    changes = [Change(at, states[n], states[n + 1], f"r{n}") for n, at in enumerate(times)]
    return changes, states[-1], times[-1] if times else 0.0


@given(histories())
def test_stays_cover_the_window_without_gap_or_overlap(history: tuple[list[Change], str, float]) -> None:
    changes, state, since = history
    stays = spells(changes, state, since, 0)
    assert stays[0].since <= 0
    assert stays[-1].until is None
    for one, following in pairwise(stays):
        assert one.until == following.since
    assert sum(totals(stays, 0, 1000).values()) == pytest.approx(1000)


@given(histories(), histories(), st.integers(1, 40))
def test_each_span_shows_the_worst_moment_in_it(
    one: tuple[list[Change], str, float], other: tuple[list[Change], str, float], count: int
) -> None:
    instances = [spells(changes, state, since, 0) for changes, state, since in (one, other)]

    def at(stays: list[Spell], second: float) -> str:
        return next(
            stay.state for stay in stays if stay.since <= second and (stay.until is None or second < stay.until)
        )

    found = buckets(instances, 0, 1000, count)
    assert len(found) == count
    width = 1000 / count
    for bucket, worst in enumerate(found):
        start, end = bucket * width, (bucket + 1) * width
        moments = {start, *(stay.since for stays in instances for stay in stays if start <= stay.since < end)}
        states = [service_health(at(stays, moment) for stays in instances) for moment in moments]
        assert worst == max(states, key=HEALTH_RANK.__getitem__)


def test_a_stay_that_began_before_the_window_keeps_its_beginning() -> None:
    (first, second) = spells([Change(100, "open", "closed", "trial calls passed", seconds=250)], "closed", 100, 0)
    assert first == Spell("open", -150, 100)
    assert second == Spell("closed", 100, None, "trial calls passed")
    assert totals([first, second], 0, 200) == {"open": 100, "closed": 100}


def test_no_window_has_no_spans() -> None:
    assert buckets([], 10, 10, 5) == []
    assert buckets([], 0, 10, 0) == []
    assert buckets([], 0, 10, 2) == ["unknown", "unknown"], "a service without instances is unknown, never healthy"


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        ([], "unknown"),
        (["unknown"], "unknown"),
        (["healthy", "unknown"], "healthy"),
        (["healthy", "unhealthy"], "degraded"),
        (["unknown", "unhealthy"], "degraded"),
        (["unhealthy", "unhealthy"], "unhealthy"),
    ],
)
def test_a_service_out_of_its_instances(instances: list[str], expected: str) -> None:
    assert service_health(instances) == expected


def test_a_breaker_is_as_bad_as_its_worst_worker() -> None:
    assert worst_breaker(["closed", "open", "half_open"]) == "open"
    assert worst_breaker(["closed", "half_open"]) == "half_open"
    assert worst_breaker([]) is None
