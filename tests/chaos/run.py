"""A run: lanes are set up, events are let go in steps, parts are killed by a schedule that a seed gives, and all is
counted when it is quiet."""

from __future__ import annotations

import random
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
from tests.chaos.lanes import Lane, Verdict
from tests.chaos.parts import Part
from tests.chaos.stores import set_goal
from tests.redis_server import RedisServer
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
    on_postgres: bool = False
    poison_every: int = 500
    say: Callable[[str], None] = print


@dataclass
class Report:
    """What happened."""

    plan: Plan
    lanes: dict[str, Verdict] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    stuck: str = ""

    @property
    def total(self) -> Verdict:
        """Of all lanes."""
        return sum(self.lanes.values(), Verdict())

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return not self.stuck and self.total.clean

    def table(self) -> str:
        """For people."""
        names = list(Verdict.__dataclass_fields__)
        rows = [["", *self.lanes, "all"]]
        for name in names:
            values = [f"{getattr(verdict, name):,}" for verdict in (*self.lanes.values(), self.total)]
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
    with _system(plan, folder) as (lanes, parts):
        chaos = _Chaos(plan, lanes, parts, report)
        try:
            chaos.go()
        except AssertionError as error:
            report.stuck = f"{error} Look into {folder}."
        report.kills = Counter()
        for part in parts:
            report.kills[part.kind] += part.kills
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def _system(plan: Plan, folder: Path) -> Iterator[tuple[list[Lane], list[Part]]]:
    with ExitStack() as stack:
        database = stack.enter_context(postgres.server(durable=True)) if plan.on_postgres else None
        # Control nudges its relay by Redis; whoever is not nudged looks by himself.
        nudging = "" if "redis" in plan.brokers else stack.enter_context(RedisServer(folder / "nudges")).url
        made = {kind: KINDS[kind](_made(folder / f"broker-{kind}")) for kind in plan.brokers}
        each = plan.events // len(plan.brokers) // 2
        lanes = [
            Lane(kind, broker, folder / kind, each, plan.poison_every, nudging or made["redis"].url, database)
            for kind, broker in made.items()
        ]
        for broker in made.values():
            stack.callback(broker.end)
        parts: list[Part] = []
        for lane in lanes:
            lane.prepare()
            parts += lane.parts
        if database is not None:
            parts.append(Part("database", "PostgreSQL", database))
        for part in parts:
            if part.kind not in {"broker", "database"}:
                stack.callback(part.end)
        yield lanes, parts


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class _Chaos:
    def __init__(self, plan: Plan, lanes: list[Lane], parts: list[Part], report: Report) -> None:
        self._plan, self._lanes, self._parts, self._report = plan, lanes, parts, report
        self._random = random.Random(plan.seed)
        self._over = threading.Event()
        self._restarting: list[Future[None]] = []

    def go(self) -> None:
        """From the first start to the count."""
        with ThreadPoolExecutor(len(self._parts)) as hands:
            try:
                list(hands.map(Part.start, [part for part in self._parts if part.kind != "database"]))
                self._plan.say("started")
                for lane in self._lanes:
                    set_goal(lane.folder, 1)
                self._until(2 * len(self._lanes), "the first events arrive")
                for lane in self._lanes:
                    lane.ripen()
                self._storm(hands)
            finally:
                self._over.set()
        self._settle()

    def _storm(self, hands: ThreadPoolExecutor) -> None:
        """Let events go in steps, and kill during each."""
        schedule = [part for part in self._parts for _ in range(self._plan.kills)]
        self._random.shuffle(schedule)
        steps = max(len(schedule) // 3, 1)
        each = self._lanes[0].events
        for step in range(steps):
            goal = each * (step + 1) // steps
            for lane in self._lanes:
                set_goal(lane.folder, goal)
            for part in schedule[step * 3 : step * 3 + 3] if step < steps - 1 else schedule[step * 3 :]:
                time.sleep(self._random.uniform(0.0, 0.5))
                self._restarting.append(hands.submit(part.strike, self._random.uniform(0.0, 2.0), self._over))
            # Some of the backlog stays, so that there always is one when somebody dies.
            before = each * step // steps
            self._until(int(2 * len(self._lanes) * before * self._random.uniform(0.7, 1.0)), f"step {step} of {steps}")
        for future in self._restarting:
            future.result()

    def _settle(self) -> None:
        """All arrives; then the cause of the poison goes, and what was parked is handled in a new life."""
        total = sum(2 * lane.events for lane in self._lanes)
        self._until(total, "everything arrives")
        for lane in self._lanes:
            (lane.folder / "cause").unlink()
        parked = {lane.kind: lane.redrive() for lane in self._lanes}
        self._plan.say(f"all arrived; {sum(parked.values())} are parked, and an operator asks for them")
        self._until(total, "what was parked is handled", parked=False)
        self._until(total, "all is in the log", logged=True)
        for lane in self._lanes:
            self._report.lanes[lane.kind] = lane.verdict(parked[lane.kind])

    def _until(self, count: int, what: str, *, parked: bool = True, logged: bool = False) -> None:
        """So many are handled, or parked; AssertionError when nothing moves any more."""
        moved, before = time.monotonic(), (-1, -1, -1)
        while True:
            counts = [lane.counts() for lane in self._lanes]
            now = tuple(sum(getattr(one, name) for one in counts) for name in ("handled", "parked", "logged"))
            if (now[2] if logged else now[0] + parked * now[1]) >= count:
                self._plan.say(f"{what}: {now[0]:,} handled, {now[1]:,} parked, {now[2]:,} in the log")
                return
            for part in self._parts:
                words = part.ended()
                assert not words, words
            if now != before:
                moved, before = time.monotonic(), now
            where = "; ".join(lane.unsent() for lane in self._lanes)
            assert time.monotonic() - moved < patient(STUCK_S), f"It stands still, waiting until {what}: {where}."
            time.sleep(0.2)
