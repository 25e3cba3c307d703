"""The transition table of health."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.health.core import HEALTHY, UNHEALTHY, UNKNOWN, Standing, Thresholds, after

THRESHOLDS = st.builds(Thresholds, rise=st.integers(1, 5), fall=st.integers(1, 5))
CHECKS = st.lists(st.booleans(), max_size=60)


def naive(checks: list[bool], thresholds: Thresholds) -> str:
    """The verdict after all ``checks``, by looking back over them every time."""
    state: str = UNKNOWN
    since = 0
    for at in range(len(checks)):
        seen = checks[since : at + 1]
        if state == UNKNOWN and seen[-1]:
            state, since = HEALTHY, at + 1
        elif state != UNHEALTHY and len(seen) >= thresholds.fall and not any(seen[-thresholds.fall :]):
            state, since = UNHEALTHY, at + 1
        elif state == UNHEALTHY and len(seen) >= thresholds.rise and all(seen[-thresholds.rise :]):
            state, since = HEALTHY, at + 1
    return state


@given(CHECKS, THRESHOLDS)
def test_the_table_agrees_with_looking_back(checks: list[bool], thresholds: Thresholds) -> None:
    standing = Standing()
    for passed in checks:
        standing = after(standing, passed, thresholds)
    assert standing.state == naive(checks, thresholds)


@given(CHECKS, THRESHOLDS)
def test_streaks_stay_below_their_thresholds(checks: list[bool], thresholds: Thresholds) -> None:
    standing = Standing()
    for passed in checks:
        standing = after(standing, passed, thresholds)
        assert standing.passes < thresholds.rise
        assert standing.failures < thresholds.fall
        assert not (standing.passes and standing.failures)


@pytest.mark.parametrize(
    ("before", "checks", "expected"),
    [
        (UNKNOWN, "+", HEALTHY),
        (UNKNOWN, "-", UNKNOWN),
        (UNKNOWN, "--", UNHEALTHY),
        (UNKNOWN, "-+", HEALTHY),
        (HEALTHY, "-", HEALTHY),
        (HEALTHY, "-+-", HEALTHY),
        (HEALTHY, "--", UNHEALTHY),
        (UNHEALTHY, "++", UNHEALTHY),
        (UNHEALTHY, "++-++", UNHEALTHY),
        (UNHEALTHY, "+++", HEALTHY),
    ],
)
def test_examples_with_rise_3_and_fall_2(before: str, checks: str, expected: str) -> None:
    standing = Standing(before)  # type: ignore[arg-type]
    for check in checks:
        standing = after(standing, check == "+", Thresholds(rise=3, fall=2))
    assert standing.state == expected
