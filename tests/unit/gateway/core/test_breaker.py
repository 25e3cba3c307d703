"""The breaker against a naive model that keeps every call and counts afresh each time."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from apps.gateway.core import config
from apps.gateway.core.breaker import FOLLOWED, QUIET_SECONDS, RECOVERED, REFUSED, Breaker, Change

SETTINGS = config.Breaker(
    sliding_window_size=4, minimum_calls=2, wait_in_open=5.0, half_open_calls=2, slow_call_duration=1.0
)


def new(changes: list[Change] | None = None, **given: object) -> Breaker:
    fields = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__} | given
    return Breaker(config.Breaker(**fields), (changes if changes is not None else []).append)


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.record(breaker.acquire(now), True, 0.0, now)


def succeed(breaker: Breaker, now: float, times: int = 1, duration: float = 0.0) -> None:
    for _ in range(times):
        breaker.record(breaker.acquire(now), False, duration, now)


def test_it_opens_at_the_rate_and_not_before_the_minimum() -> None:
    changes: list[Change] = []
    breaker = new(changes)
    fail(breaker, 0.0)
    assert breaker.state == "closed"
    succeed(breaker, 0.0)
    assert breaker.state == "open" and changes[0].reason == "1 of the last 2 calls failed."


def test_slow_calls_open_it_too() -> None:
    breaker = new(slow_call_rate=0.5)
    succeed(breaker, 0.0, 1, duration=1.0)  # exactly the threshold is not slow
    succeed(breaker, 0.0, 1, duration=1.001)
    assert breaker.state == "open"


def test_it_refuses_while_open_and_turns_half_open_by_itself() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    assert breaker.acquire(4.9) == REFUSED and breaker.view(4.9).retry_at == 5.0
    breaker.tick(5.0)
    assert breaker.state == "half_open"
    assert breaker.acquire(5.0) and breaker.acquire(5.0) and breaker.acquire(5.0) == REFUSED


def test_trials_decide_together() -> None:
    for failures, after in ((0, "closed"), (1, "open"), (2, "open")):
        breaker = new()
        fail(breaker, 0.0, 2)
        breaker.tick(5.0)
        fail(breaker, 5.0, failures)
        succeed(breaker, 5.0, 2 - failures)
        assert breaker.state == after, failures


def test_a_trial_that_ends_without_an_answer_gives_its_place_back() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    permits = [breaker.acquire(5.0), breaker.acquire(5.0)]
    for permit in permits:
        breaker.release(permit)
    assert breaker.acquire(5.0) and breaker.acquire(5.0) and not breaker.acquire(5.0)


def test_a_trial_without_end_holds_its_place_for_the_wait_in_open_and_no_longer() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    uploads = [breaker.acquire(5.0), breaker.acquire(5.0)]
    assert breaker.acquire(9.9) == REFUSED
    succeed(breaker, 10.0, 2)
    assert breaker.state == "closed"
    for permit in uploads:  # of a spell that is over
        breaker.record(permit, True, 0.0, 30.0)
    assert breaker.view(30.0).calls == 0


def test_trials_that_hang_open_it_again_when_their_failure_comes_late() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    first = [breaker.acquire(5.0), breaker.acquire(5.0)]
    assert breaker.acquire(12.0) and breaker.acquire(12.0)
    for permit in first:
        breaker.record(permit, True, 60.0, 20.0)
    assert breaker.state == "open"


def test_trials_without_end_are_remembered_up_to_a_bound() -> None:
    breaker = new(wait_in_open=1.0)
    fail(breaker, 0.0, 2)
    permits = [breaker.acquire(float(second)) for second in range(1, 1000)]
    breaker.record(permits[0], True, 0.0, 1000.0)  # forgotten
    assert breaker.state == "half_open" and breaker.view(1000.0).calls == 0
    breaker.record(permits[-1], True, 0.0, 1000.0)
    assert breaker.view(1000.0).calls == 1


@pytest.mark.parametrize("kind", ["count", "time"])
def test_an_answer_that_breaks_off_turns_its_good_call_into_a_failed_one(kind: str) -> None:
    breaker = new(sliding_window_type=kind, minimum_calls=3, sliding_window_size=10)
    permit = breaker.acquire(0.0)
    succeed(breaker, 0.0, 3)
    breaker.retract(permit, 0.5)
    assert (breaker.view(0.5).calls, round(breaker.view(0.5).failure_rate, 2)) == (3, 0.33)
    breaker.retract(permit, 0.5)
    assert breaker.state == "open"
    breaker.retract(permit, 0.6)
    assert breaker.view(0.6).calls == 0


def test_a_call_from_before_decides_nothing_after() -> None:
    breaker = new()
    old = breaker.acquire(0.0)
    fail(breaker, 0.0, 2)
    breaker.tick(5.0)
    breaker.record(old, False, 0.0, 5.0)
    breaker.record(old, False, 0.0, 5.0)
    breaker.release(old)
    assert breaker.state == "half_open"
    assert breaker.acquire(5.0) and breaker.acquire(5.0) and not breaker.acquire(5.0)


@pytest.mark.parametrize(("override", "answer"), [("open", False), ("closed", True)])
def test_an_override_holds_whatever_happens(override: str, answer: bool) -> None:
    breaker = new(override=override)
    fail(breaker, 0.0, 10)
    breaker.tick(100.0)
    breaker.follow(100.0)
    breaker.recover(100.0)
    assert bool(breaker.acquire(100.0)) is answer
    view = breaker.view(100.0)
    assert view.forced and view.state == override and view.retry_at is None
    breaker.configure(SETTINGS, 101.0)
    assert breaker.state == "closed" and not breaker.view(101.0).forced and breaker.acquire(101.0)


def test_it_follows_a_peer_and_recovers_on_the_monitors_word() -> None:
    changes: list[Change] = []
    breaker = new(changes)
    breaker.follow(1.0)
    breaker.follow(2.0)
    assert [change.reason for change in changes] == [FOLLOWED] and breaker.since == 1.0
    breaker.recover(3.0)
    assert breaker.state == "half_open" and changes[-1].reason == RECOVERED
    breaker.tick(4.9)
    assert breaker.state == "half_open"
    breaker.tick(5.0)
    assert breaker.state == "closed"


def test_the_monitors_word_said_again_does_not_put_off_the_close() -> None:
    breaker = new()
    breaker.follow(1.0)
    for second in (3.0, 4.0):
        breaker.recover(second)
    breaker.tick(5.0)
    assert breaker.state == "closed"


def test_after_the_monitors_word_trial_calls_still_decide() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    breaker.recover(1.0)
    fail(breaker, 1.0, 2)
    assert breaker.state == "open"
    breaker.recover(2.0)
    succeed(breaker, 2.0, 2)
    assert breaker.state == "closed"


def test_the_monitors_word_closes_nothing_over_a_failed_or_flying_trial_call() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    breaker.recover(1.0)
    permit = breaker.acquire(1.0)
    breaker.tick(5.9)
    assert breaker.state == "half_open"
    breaker.record(permit, True, 0.0, 6.0)
    breaker.tick(20.0)
    assert breaker.state == "half_open"


def test_a_call_that_comes_after_the_quiet_finds_it_closed() -> None:
    breaker = new()
    fail(breaker, 0.0, 2)
    breaker.recover(1.0)
    assert [bool(breaker.acquire(3.0)) for _ in range(5)] == [True] * 5


def test_changed_settings_apply_and_a_changed_window_starts_empty() -> None:
    breaker = new()
    fail(breaker, 0.0)
    breaker.configure(config.Breaker(sliding_window_size=8, minimum_calls=2), 0.0)
    assert breaker.view(0.0).calls == 0
    fail(breaker, 0.0, 2)
    assert breaker.state == "open"


class Model(RuleBasedStateMachine):
    """Random calls, endings, waits and outside events; the breaker and a slow, obvious model must agree."""

    @initialize(
        kind=st.sampled_from(["count", "time"]),
        size=st.integers(1, 6),
        minimum=st.integers(1, 8),
        failure=st.sampled_from([0.25, 0.5, 1.0]),
        slow=st.sampled_from([0.5, 1.0]),
        trials=st.integers(1, 3),
    )
    def begin(self, kind: str, size: int, minimum: int, failure: float, slow: float, trials: int) -> None:
        self.settings = config.Breaker(kind, size, minimum, failure, slow, 1.0, 3.0, trials)  # type: ignore[arg-type]
        self.breaker = Breaker(self.settings, lambda change: None)
        self.now = 0.0
        self.state = "closed"
        self.spell = 0
        self.calls: deque[tuple[float, bool, bool]] = deque()
        self.opened_at = 0.0
        self.close_at: float | None = None
        self.flying: list[tuple[int, int, float]] = []

    def become(self, state: str) -> None:
        self.state, self.spell = state, self.spell + 1
        self.close_at = None
        self.calls.clear()
        if state == "open":
            self.opened_at = self.now

    def window(self) -> list[tuple[float, bool, bool]]:
        if self.state == "half_open":
            return list(self.calls)
        if self.settings.sliding_window_type == "count":
            return list(self.calls)[-self.settings.sliding_window_size :]
        oldest = int(self.now) - self.settings.sliding_window_size
        return [call for call in self.calls if int(call[0]) > oldest]

    def flying_trials(self) -> int:
        return sum(spell == self.spell and began > self.now - 3.0 for _, spell, began in self.flying)

    def model_tick(self) -> None:
        if self.state == "open" and self.now >= self.opened_at + 3.0:
            self.become("half_open")
        elif self.close_at is not None and self.now >= self.close_at:
            spoiled = any(failed or slow for _, failed, slow in self.calls)
            if not spoiled and not self.flying_trials():
                self.become("closed")

    @rule()
    def call(self) -> None:
        permit = self.breaker.acquire(self.now)
        self.model_tick()
        expected = self.state == "closed" or (
            self.state == "half_open" and self.flying_trials() + len(self.calls) < self.settings.half_open_calls
        )
        assert bool(permit) == expected
        if permit:
            self.flying.append((permit, self.spell, self.now))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), failed=st.booleans(), slow=st.booleans())
    def end(self, data: st.DataObject, failed: bool, slow: bool) -> None:
        permit, spell, _ = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.breaker.record(permit, failed, 2.0 if slow else 0.5, self.now)
        if spell != self.spell:
            return
        self.calls.append((self.now, failed, slow))
        self.judge()

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        """A call ends well, and then its answer breaks off."""
        permit, spell, _ = self.flying[data.draw(st.integers(0, len(self.flying) - 1))]
        self.breaker.retract(permit, self.now)
        window = self.window()
        good = [call for call in window if not call[1]]
        if spell == self.spell and good:
            at = len(self.calls) - 1 - [call[1] for call in reversed(self.calls)].index(False)
            self.calls[at] = (self.calls[at][0], True, self.calls[at][2])
        if spell == self.spell and self.calls:
            self.judge()

    def judge(self) -> None:
        window = self.window()
        if self.state == "half_open":
            if len(self.calls) < self.settings.half_open_calls:
                return
            enough = True
        else:
            minimum = self.settings.minimum_calls
            if self.settings.sliding_window_type == "count":
                minimum = min(minimum, self.settings.sliding_window_size)
            enough = len(window) >= minimum
        bad = enough and (
            sum(call[1] for call in window) / len(window) >= self.settings.failure_rate
            or sum(call[2] for call in window) / len(window) >= self.settings.slow_call_rate
        )
        if bad:
            self.become("open")
        elif self.state == "half_open":
            self.become("closed")

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        permit, _, _ = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.breaker.release(permit)

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.breaker.tick(self.now)
        self.model_tick()

    @rule()
    def peer_opens(self) -> None:
        self.breaker.follow(self.now)
        if self.state != "open":
            self.become("open")

    @rule()
    def monitor_recovers(self) -> None:
        self.breaker.recover(self.now)
        if self.state == "open":
            self.become("half_open")
        if self.state == "half_open" and self.close_at is None:
            self.close_at = self.now + QUIET_SECONDS

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "breaker"):
            return
        view = self.breaker.view(self.now)
        assert view.state == self.state
        if self.state != "open":
            window = self.window()
            assert view.calls == len(window)
            assert view.failure_rate == (sum(call[1] for call in window) / len(window) if window else 0.0)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
