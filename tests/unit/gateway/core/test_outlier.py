"""Ejection of the worse instance: what it takes, how many, how long, and back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from apps.gateway.core import config
from apps.gateway.core.outlier import INTERVAL_SECONDS, MAX_SECONDS, MINIMUM_ATTEMPTS, Ejection, Outliers

SETTINGS = config.Outlier(consecutive_failures=3, base_ejection_time=10.0)


def watch(*names: str, **given: object) -> tuple[Outliers, list[Ejection]]:
    told: list[Ejection] = []
    fields = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__} | given
    outliers = Outliers(config.Outlier(**fields), told.append)
    outliers.configure(outliers.config, names, 0.0)
    return outliers, told


def fail(outliers: Outliers, name: str, now: float, times: int = 1) -> None:
    for _ in range(times):
        outliers.failed(outliers.marks[name], now, now)


def out(outliers: Outliers) -> set[str]:
    return {mark.name for mark in outliers.ejected()}


def test_failures_in_a_row_eject_and_a_success_between_them_does_not() -> None:
    outliers, told = watch("a", "b")
    fail(outliers, "a", 1.0, 2)
    outliers.marks["a"].passed()
    fail(outliers, "a", 1.0, 2)
    assert not told
    fail(outliers, "a", 1.0)
    assert told == [Ejection("a", 11.0, "3 attempts in a row failed.", 1.0)] and out(outliers) == {"a"}


def test_a_share_of_failures_ejects_whatever_their_order() -> None:
    outliers, told = watch("a", "b")
    for _ in range(MINIMUM_ATTEMPTS // 2):
        fail(outliers, "a", 1.0)
        outliers.marks["a"].passed()
        outliers.marks["b"].passed()
    outliers.tick(INTERVAL_SECONDS - 0.1)
    assert not told
    outliers.tick(INTERVAL_SECONDS)
    assert [(one.instance, one.reason) for one in told] == [("a", "10 of 20 attempts failed.")]


def test_one_of_two_may_be_out_and_never_both_nor_the_only_one() -> None:
    outliers, _ = watch("a", "b", max_ejected=1.0)
    fail(outliers, "a", 1.0, 3)
    fail(outliers, "b", 1.0, 30)
    assert out(outliers) == {"a"}
    alone, told = watch("a")
    fail(alone, "a", 1.0, 30)
    assert not told


def test_when_all_fail_alike_none_is_ejected() -> None:
    outliers, told = watch("a", "b")
    for _ in range(50):
        fail(outliers, "a", 1.0)
        fail(outliers, "b", 1.0)
    outliers.tick(INTERVAL_SECONDS)
    assert not told


def test_the_load_is_not_moved_to_an_instance_that_the_monitor_holds_for_unhealthy() -> None:
    outliers, told = watch("a", "b")
    outliers.suspects = {"b"}
    fail(outliers, "a", 1.0, 10)
    assert not told


def test_it_returns_by_itself_and_stays_out_longer_each_time() -> None:
    outliers, told = watch("a", "b")
    now = 0.0
    spans = []
    for _ in range(40):
        fail(outliers, "a", now, 3)
        spans.append(told[-1].until - now)  # type: ignore[operator]
        now = told[-1].until or 0.0
        outliers.tick(now - 0.01)
        assert out(outliers) == {"a"}
        outliers.tick(now)
        assert out(outliers) == set()
    assert spans[:3] == [10.0, 20.0, 30.0] and spans[-1] == MAX_SECONDS


def test_one_that_comes_back_is_on_probation() -> None:
    outliers, _ = watch("a", "b")
    fail(outliers, "a", 0.0, 3)
    outliers.tick(10.0)
    fail(outliers, "a", 10.0)
    assert out(outliers) == {"a"}, "its next failure ejects it again"
    outliers.tick(30.0)
    outliers.marks["a"].passed()
    fail(outliers, "a", 30.0, 2)
    assert out(outliers) == set(), "its next success clears it"


def test_a_call_sent_before_the_ejection_is_not_held_against_it_afterwards() -> None:
    outliers, _ = watch("a", "b")
    fail(outliers, "a", 0.0, 3)
    outliers.tick(10.0)
    outliers.failed(outliers.marks["a"], 0.0, 10.5)  # it hung all the while
    assert out(outliers) == set()


def test_quiet_time_in_rotation_is_forgotten_step_by_step() -> None:
    outliers, told = watch("a", "b")
    fail(outliers, "a", 0.0, 3)
    outliers.tick(10.0)
    for second in range(11, 60):
        outliers.marks["a"].passed()
        outliers.tick(float(second))
    fail(outliers, "a", 60.0, 3)
    assert told[-1].until == 70.0


def test_the_monitors_word_brings_it_back_at_once() -> None:
    outliers, told = watch("a", "b")
    fail(outliers, "a", 0.0, 3)
    outliers.restore("a", 1.0)
    outliers.restore("b", 1.0)
    outliers.restore("stranger", 1.0)
    assert [(one.instance, one.until) for one in told] == [("a", 10.0), ("a", None)]


def test_an_answer_of_an_instance_that_is_gone_is_held_against_nobody() -> None:
    outliers, told = watch("a", "b")
    gone = outliers.marks["a"]
    outliers.forget("a")
    outliers.configure(outliers.config, ["a", "b"], 1.0)
    for _ in range(10):
        outliers.failed(gone, 2.0, 2.0)
    assert not told and outliers.marks["a"].streak == 0


def test_a_revision_keeps_what_is_known_and_frees_whom_it_no_longer_lets_out() -> None:
    outliers, told = watch("a", "b", "c")
    fail(outliers, "a", 0.0, 3)
    outliers.configure(outliers.config, ["a", "b"], 1.0)
    assert out(outliers) == {"a"}
    outliers.configure(outliers.config, ["a"], 2.0)
    assert out(outliers) == set() and told[-1].until is None
    outliers.configure(config.Outlier(consecutive_failures=0), ["a", "b"], 3.0)
    fail(outliers, "a", 3.0, 100)
    outliers.tick(20.0)
    assert out(outliers) == set()


class Machine(RuleBasedStateMachine):
    """Any order of attempts, waits, verdicts and revisions: bounds hold, and the listener knows all that happened."""

    @initialize(count=st.integers(1, 6), share=st.sampled_from([0.01, 0.5, 1.0]), limit=st.integers(0, 3))
    def begin(self, count: int, share: float, limit: int) -> None:
        self.now = 0.0
        self.heard: dict[str, float] = {}
        settings = config.Outlier(limit, 0.5, 4.0, share)
        self.outliers = Outliers(settings, self.hear)
        self.outliers.configure(settings, [f"i{number}" for number in range(count)], 0.0)

    def hear(self, ejection: Ejection) -> None:
        if ejection.until is None:
            assert self.heard.pop(ejection.instance)
        else:
            assert ejection.instance not in self.heard and ejection.until > ejection.at == self.now
            self.heard[ejection.instance] = ejection.until

    @rule(data=st.data(), failed=st.booleans(), times=st.integers(1, 25))
    def attempts(self, data: st.DataObject, failed: bool, times: int) -> None:
        mark = self.outliers.marks[data.draw(st.sampled_from(sorted(self.outliers.marks)))]
        for _ in range(times):
            if failed:
                self.outliers.failed(mark, self.now, self.now)
            else:
                mark.passed()

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.outliers.tick(self.now)
        assert all(until > self.now for until in self.heard.values()), "nobody is out past its time"

    @rule(data=st.data())
    def verdicts(self, data: st.DataObject) -> None:
        names = sorted(self.outliers.marks)
        self.outliers.suspects = data.draw(st.sets(st.sampled_from(names)))
        self.outliers.restore(data.draw(st.sampled_from(names)), self.now)

    @rule(count=st.integers(1, 6), limit=st.integers(0, 3))
    def revise(self, count: int, limit: int) -> None:
        names = [f"i{number}" for number in range(count)]
        self.heard = {name: until for name, until in self.heard.items() if name in names}
        self.outliers.configure(config.Outlier(limit, 0.5, 4.0, self.outliers.config.max_ejected), names, self.now)

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "outliers"):
            return
        out = {mark.name: mark.until for mark in self.outliers.ejected()}
        assert out == self.heard
        count, limits = len(self.outliers.marks), self.outliers.config
        most = max(1, int(count * limits.max_ejected)) if count > 1 and limits.consecutive_failures else 0
        assert len(out) <= min(most, count - 1)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
