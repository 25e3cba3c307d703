"""Many processes report at about one moment, whenever they began and whatever their clocks are set to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.kit.together import JUST_NOW, SPREAD_S, seconds_until

NOW = st.floats(1e9, 4e9)
EVERY = st.sampled_from([1.0, 5.0, 10.0, 60.0])
PLACE = st.floats(0, 1)


@given(NOW, EVERY, PLACE)
def test_the_moment_is_a_multiple_of_the_interval_and_never_far(now: float, every: float, place: float) -> None:
    left = seconds_until(now, every, place)
    assert JUST_NOW * every <= left <= (1 + JUST_NOW) * every + 1e-6
    beyond = (now + left) % every
    assert min(abs(beyond - place * SPREAD_S), every - abs(beyond - place * SPREAD_S)) < 1e-3


@given(NOW, EVERY, PLACE, st.floats(-0.05, 0.05))
def test_a_wait_that_ends_a_little_early_or_late_is_one_report(
    now: float, every: float, place: float, off: float
) -> None:
    woken = now + seconds_until(now, every, place) + off
    again = woken + seconds_until(woken, every, place)
    assert abs(again - (woken - off) - every) < 1e-3, "one interval later, and not at once"


@given(NOW, PLACE, PLACE, st.floats(0, 9))
def test_processes_that_began_at_different_times_meet(now: float, first: float, second: float, later: float) -> None:
    every = 10.0
    moments = [now + seconds_until(now, every, first), now + later + seconds_until(now + later, every, second)]
    apart = abs(moments[0] - moments[1]) % every
    assert min(apart, every - apart) <= SPREAD_S + 1e-3
