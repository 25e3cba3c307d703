"""A run: the system is set up, events are let go in steps, parts are killed by a schedule that a seed gives, and all is
counted when it is quiet."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import postgres
from tests.brokers import KINDS
from tests.chaos.parts import Part
from tests.chaos.stores import set_goal
from tests.chaos.system import KEYS, Counts, System, Verdict
from tests.waiting import patient

STUCK_S = 180.0
"""So long without any progress, on a machine that has time, is the end of hope."""
BROKERS = ("redis", "rabbitmq", "kafka")


@dataclass(frozen=True)
class Plan:
    """What is to happen; the same seed, the same schedule."""

    events: int
    kills: int
    """Of each part, about."""
    seed: int = 1
    brokers: Sequence[str] = BROKERS
    """The first is where events go by default."""
    on_postgres: bool = False
    poison_every: int = 1000
    say: Callable[[str], None] = print


@dataclass
class Report:
    """What happened."""

    plan: Plan
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    stuck: str = ""

    @property
    def total(self) -> Verdict:
        """All together."""
        return sum(self.verdicts.values(), Verdict())

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return not self.stuck and self.total.clean

    def table(self) -> str:
        """For people."""
        names = list(Verdict.__dataclass_fields__)
        rows = [["", *self.verdicts, "all"]]
        for name in names:
            values = [f"{getattr(verdict, name):,}" for verdict in (*self.verdicts.values(), self.total)]
            rows.append([name.replace("_", " "), *values])
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        killed = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kills.items()))
        lines.append(f"killed with SIGKILL: {killed}")
        lines.append(
            f"seed {self.plan.seed}, {'PostgreSQL' if self.plan.on_postgres else 'SQLite'}, {self.seconds:.0f} s"
        )
        lines.append(self.stuck or ("Every promise held." if self.clean else "A promise was broken."))
        return "\n".join(lines)


def run(plan: Plan) -> Report:
    """Do it; how it went. Processes are gone afterwards, and so is what they kept unless a promise was broken."""
    report, began = Report(plan), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="mc-chaos-"))
    with _system(plan, folder) as system:
        try:
            _Chaos(plan, system, report).go()
        except AssertionError as error:
            report.stuck = f"{error} Look into {folder}."
        for part in system.parts:
            report.kills[part.kind] += part.kills
    report.seconds = time.monotonic() - began
    if report.clean:
        shutil.rmtree(folder)
    return report


@contextmanager
def _system(plan: Plan, folder: Path) -> Iterator[System]:
    with ExitStack() as stack:
        database = stack.enter_context(postgres.server(durable=True)) if plan.on_postgres else None
        brokers = {kind: KINDS[kind](_made(folder / f"broker-{kind}")) for kind in plan.brokers}
        for broker in brokers.values():
            stack.callback(broker.end)
        system = System(brokers, folder / "system", plan.events // 2, plan.poison_every, database)
        system.prepare()
        for part in system.parts:
            if part.kind != "database":
                stack.callback(part.end)
        yield system


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class _Chaos:
    def __init__(self, plan: Plan, system: System, report: Report) -> None:
        self._plan, self._system, self._report = plan, system, report
        self._random = random.Random(plan.seed)
        self._over = threading.Event()

    def go(self) -> None:
        """From the first start to the count."""
        parts = self._system.parts
        with ThreadPoolExecutor(len(parts)) as hands:
            try:
                list(hands.map(Part.start, [part for part in parts if part.kind in self._plan.brokers]))
                self._system.direct()
                programs = [part for part in parts if part.kind not in {"database", *self._plan.brokers}]
                list(hands.map(Part.start, programs))
                # One of each key, so that every broker has had some.
                set_goal(self._system.folder, KEYS)
                self._until(2 * KEYS, "the first arrive")
                self._system.ripen()
                self._storm(hands)
            finally:
                self._over.set()
        self._settle()

    def _storm(self, hands: ThreadPoolExecutor) -> None:
        """Let events go in steps, and kill during each."""
        schedule = [part for part in self._system.parts for _ in range(self._plan.kills)]
        self._random.shuffle(schedule)
        steps = max(len(schedule) // 2, 1)
        restarting: list[Future[None]] = []
        events = self._system.events
        for step in range(steps):
            set_goal(self._system.folder, max(events * (step + 1) // steps, KEYS))
            for part in schedule[step * 2 : step * 2 + 2] if step < steps - 1 else schedule[step * 2 :]:
                time.sleep(self._random.uniform(0.0, 0.5))
                restarting.append(hands.submit(part.strike, self._random.uniform(0.0, 2.0), self._over))
            # Some of the backlog stays, so that there always is one when somebody dies.
            before = events * step // steps
            self._until(int(2 * before * self._random.uniform(0.7, 1.0)), f"step {step + 1} of {steps}")
        for future in restarting:
            future.result()

    def _settle(self) -> None:
        """All arrives; then the cause of the poison goes, and an operator asks for what was parked."""
        total = 2 * self._system.events
        self._until(total, "everything arrives")
        (self._system.folder / "cause").unlink()
        parked = self._system.redrive()
        self._plan.say(f"an operator asks for {parked:,} that are parked")
        self._until(total, "what was parked is handled", parked=False)
        self._until(total, "all is in the log", logged=True)
        self._report.verdicts = self._system.verdict(parked)

    def _until(self, count: int, what: str, *, parked: bool = True, logged: bool = False) -> None:
        """So many are handled, or parked; AssertionError when nothing moves any more."""
        moved, before = time.monotonic(), Counts(-1)
        while True:
            now = self._system.counts()
            if (now.logged if logged else now.handled + parked * now.parked) >= count:
                self._plan.say(f"{what}: {now.handled:,} handled, {now.parked:,} parked, {now.logged:,} in the log")
                return
            for part in self._system.parts:
                words = part.ended()
                assert not words, words
            if now != before:
                moved, before = time.monotonic(), now
            stands = time.monotonic() - moved
            assert stands < patient(STUCK_S), f"It stands still, waiting until {what}: {self._system.unsent()}."
            time.sleep(0.2)
