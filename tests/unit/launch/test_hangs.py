"""Who hangs: decided from what each process showed of itself, with a clock and answers of the test's."""

from __future__ import annotations

from missioncontrol.launch.hangs import MOST, WITHIN_S, Hangs
from missioncontrol.launch.processes import Http, Process

PAUSE = 5.0
NAMES = ("control", "relay", "worker")
ALL = [Process(name, (), 10, Http("")) for name in NAMES]


class Bench:
    """Looks at processes of which some are silent."""

    def __init__(self, limit: float = 60.0, start: float = 30.0) -> None:
        self.now = 1000.0
        self.hangs = Hangs(ALL, limit, start, PAUSE)
        self.pids = dict(zip(NAMES, (1, 2, 3), strict=True))
        self.says: dict[str, bool | None] = dict.fromkeys(NAMES, True)
        self.asked: list[str] = []

    def ask(self, process: Process) -> bool | None:
        self.asked.append(process.name)
        return self.says[process.name]

    def look(self, after: float = PAUSE) -> list[str]:
        self.now += after
        return list(self.hangs.look(lambda: self.now, self.pids, self.ask))

    def first(self, seconds: float) -> tuple[float, list[str]]:
        """When anybody hangs within ``seconds``, and who."""
        began = self.now
        while self.now - began < seconds:
            if found := self.look():
                return self.now - began, found
        return self.now - began, []


def test_all_are_asked_within_the_limit_and_no_oftener_than_that_needs() -> None:
    bench = Bench()
    for _ in range(12):
        assert bench.look() == []
    assert {name: bench.asked.count(name) for name in NAMES} == dict.fromkeys(NAMES, 4)


def test_one_that_falls_silent_hangs_after_the_limit_and_no_other() -> None:
    bench = Bench()
    bench.first(60)
    bench.says["relay"] = False
    after, found = bench.first(300)
    assert found == ["relay"]
    assert 50 <= after <= 60 + 3 * PAUSE + PAUSE


def test_one_that_speaks_again_in_time_does_not() -> None:
    bench = Bench()
    bench.first(60)
    bench.says["relay"] = False
    assert bench.first(40)[1] == []
    bench.says["relay"] = True
    bench.look()
    bench.says["relay"] = False
    assert bench.first(50)[1] == []


def test_a_start_may_take_longer_and_a_new_process_begins_anew() -> None:
    bench = Bench()
    bench.says["worker"] = False
    after, found = bench.first(300)
    assert (found, after > 60 + 30) == (["worker"], True)
    bench.pids["worker"] = 9
    assert bench.first(60)[1] == []


def test_nobody_is_judged_by_what_can_not_be_seen() -> None:
    bench = Bench()
    bench.first(60)
    bench.says["relay"] = None
    assert bench.first(600)[1] == []


def test_a_launcher_that_did_not_run_itself_gives_all_of_them_time() -> None:
    bench = Bench()
    bench.first(60)
    bench.says = dict.fromkeys(NAMES, False)
    bench.first(40)
    assert bench.look(after=3600.0) == []
    assert bench.first(50)[1] == []
    assert bench.first(60)[1] != []


def test_one_that_is_stopped_is_not_asked() -> None:
    bench = Bench()
    del bench.pids["control"]
    bench.says["control"] = False
    assert bench.first(600)[1] == []
    assert "control" not in bench.asked


def test_kills_are_bounded() -> None:
    bench = Bench()
    assert [bench.hangs.killed("relay", bench.now) for _ in range(MOST + 1)] == [True] * MOST + [False]
    assert bench.hangs.killed("worker", bench.now)
    assert bench.hangs.killed("relay", bench.now + WITHIN_S)


def test_zero_watches_nobody() -> None:
    bench = Bench(limit=0)
    bench.says = dict.fromkeys(NAMES, False)
    assert bench.first(600)[1] == []
    assert bench.asked == []
