"""The bound on requests in flight: its ceiling, its fall and its recovery."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core.overload import FLOOR, Gate


def test_what_is_over_the_ceiling_is_refused_and_a_place_left_is_free_again() -> None:
    gate = Gate(2)
    assert [gate.enter(), gate.enter(), gate.enter()] == [True, True, False]
    gate.leave(True)
    assert gate.enter() and not gate.enter()


def test_timeouts_bring_the_limit_down_once_for_a_crowd_and_never_below_the_floor() -> None:
    gate = Gate(1000)
    for _ in range(500):
        gate.timed_out(10.0)
    assert gate.limit == 700
    for second in range(11, 100):
        gate.timed_out(float(second))
    assert gate.limit == FLOOR
    small = Gate(3)
    small.timed_out(1.0)
    assert small.limit == 3, "a ceiling below the floor stays as it is"


def test_good_answers_under_load_let_it_grow_back_to_the_ceiling_and_idle_ones_do_not() -> None:
    gate = Gate(20)
    for second in range(100):
        gate.timed_out(float(second))
    for _ in range(1000):
        assert gate.enter()
        gate.leave(True)
    assert gate.limit == FLOOR, "one at a time proves nothing about eight"
    for _ in range(1000):
        while gate.enter():
            pass
        gate.leave(True)
    assert gate.limit == 20


def test_a_changed_ceiling_starts_afresh() -> None:
    gate = Gate(100)
    gate.timed_out(1.0)
    gate.configure(100)
    assert gate.limit == 70
    gate.configure(50)
    assert gate.limit == 50


@given(st.integers(1, 50), st.lists(st.sampled_from(["enter", "served", "failed", "late"])))
def test_the_count_is_what_is_in(ceiling: int, steps: list[str]) -> None:
    gate = Gate(ceiling)
    inside = 0
    for number, step in enumerate(steps):
        if step == "enter":
            inside += gate.enter()
        elif step == "late":
            gate.timed_out(float(number))
        elif inside:
            gate.leave(step == "served")
            inside -= 1
        assert gate.in_flight == inside <= ceiling
        assert min(FLOOR, ceiling) <= gate.limit <= ceiling
