"""Members of a group as processes of their own, on a real broker and a real store: slow, deadly, killed, poisoned."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.transport.base import Outgoing
from services.kit.events.transport.connect import connect
from services.kit.inbox import MAX_LIVES
from tests.fleet import ROOT
from tests.signed import KEYS
from tests.waiting import until


class Group:
    """A group of members over one store; its topic is its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.name = f"t{uuid4().hex[:8]}"
        self.database = folder / "store.sqlite3"
        self.log = folder / "runs"
        self.log.touch()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._numbers: Counter[str] = Counter()

    def publish(self, *names: str, poison: str = "") -> None:
        """Events in order: the name's first letter is the key, numbered from 1 within it."""
        events = []
        for name in names:
            self._numbers[name[0]] += 1
            events.append(
                CloudEvent(
                    name, f"{self.name}.thing.done", "tests", time.time(), {"poison": name == poison},
                    partition_key=name[0], sequence=self._numbers[name[0]],
                )
            )  # fmt: skip

        async def send() -> None:
            transport = connect(self.url)
            for start in range(0, len(events), 200):
                await transport.publish([Outgoing(KEYS.sign(one, "tests")) for one in events[start : start + 200]])
            await transport.close()

        asyncio.run(send())

    def member(self, kind: str = "fine", name: str = "one", lease_s: float = 1.0) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.bus_consumer", self.url, str(self.database), self.name, name]
        argv += [f"{self.name}.#", str(lease_s), kind, str(self.log)]
        self.processes.append(subprocess.Popen(argv, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"}))
        return self.processes[-1]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        if not self.database.exists():
            return []
        engine = create_engine(f"sqlite:///{self.database}")
        try:
            with engine.connect() as connection:
                if not connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'seen'")).first():
                    return []
                return [tuple(row) for row in connection.execute(text(query))]
        finally:
            engine.dispose()

    def seen(self) -> list[str]:
        """The events whose work stayed, in the order of their transactions."""
        return [str(row[0]) for row in self.rows("SELECT event_id FROM seen ORDER BY id")]

    def parked(self) -> list[tuple[object, ...]]:
        return self.rows("SELECT event_id, kind FROM parked ORDER BY id")

    def runs(self) -> Counter[str]:
        """How often the handler began, by event."""
        return Counter(line.split()[0] for line in self.log.read_text().splitlines())


@pytest.fixture
def group(redis_url: str, tmp_path: Path) -> Iterator[Group]:
    made = Group(redis_url, tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def in_order(names: list[str]) -> bool:
    """Every key's events by their numbers."""
    keys = {name[0] for name in names}
    return all(
        (numbers := [int(name[1:]) for name in names if name[0] == key]) == list(range(1, len(numbers) + 1))
        for key in keys
    )


def test_a_handler_slower_than_the_lease_handles_each_event_once_and_in_order(group: Group) -> None:
    names = [f"{'abcd'[number % 4]}{number // 4 + 1}" for number in range(100)]
    group.publish(*names)
    # Two, so that there is somebody to take a lease that lapses.
    group.member("slow", "one")
    group.member("slow", "two")
    until(lambda: len(group.seen()) == 100, 30, what="100 events are handled")
    assert in_order(group.seen())
    assert set(group.runs().values()) == {1}, "no handler ran twice"


def test_members_that_come_and_are_killed_keep_every_keys_order(group: Group) -> None:
    keys, sent = "abcdefghijklmnop", 0

    def some() -> int:
        """A few of every key, with others still in hand."""
        nonlocal sent
        names = [f"{key}{number}" for number in range(sent // 16 + 1, sent // 16 + 6) for key in keys]
        group.publish(*names)
        sent += len(names)
        return until(lambda: len(group.seen()) > sent - 200 and len(group.seen()), 20)

    def both() -> bool:
        some()
        return len(group.rows("SELECT DISTINCT member FROM seen")) == 2

    first = group.member(name="one")
    some()
    group.member(name="two")
    until(both, 20, what="both members work")
    some()
    group.publish(*[f"{key}{sent // 16 + 1}" for key in keys])
    first.kill()
    first.wait()
    until(lambda: len(group.seen()) == sent + 16, 30, what="every event is handled")
    assert in_order(group.seen()) and len(set(group.seen())) == sent + 16
    assert group.parked() == [] and group.rows("SELECT * FROM heard WHERE missing > 0") == []


def test_an_event_that_ends_every_process_is_parked_in_the_end_and_the_others_are_handled(group: Group) -> None:
    group.publish("b1", "a1", "a2", "b2", poison="a1")
    deaths = 0

    def done() -> bool:
        nonlocal deaths
        if not group.processes or group.processes[-1].poll() is not None:
            deaths += bool(group.processes)
            group.member("deadly")
        return len(group.parked()) == 2 and len(group.seen()) == 2

    until(done, 60, what="the deadly event is parked")
    assert group.parked() == [("a1", "ProcessDied"), ("a2", "Behind")]
    assert group.seen() == ["b1", "b2"]
    assert deaths == group.runs()["a1"] == MAX_LIVES
    # A new start does not try it again: that would end it once more.
    group.processes[-1].terminate()
    assert group.processes[-1].wait(10) == 0
    group.member("deadly")
    group.publish("b3")
    until(lambda: group.seen() == ["b1", "b2", "b3"], 15)
    assert group.processes[-1].poll() is None and group.runs()["a1"] == MAX_LIVES


def test_a_poison_event_parks_its_key_and_nobody_elses_and_a_restart_resumes_it(group: Group) -> None:
    names = [f"{key}{number}" for number in range(1, 31) for key in "abc"]
    group.publish(*names, poison="b10")
    poisoned = group.member("poison")
    until(lambda: len(group.seen()) == 69 and len(group.parked()) == 21, 20, what="b10 and what follows it is parked")
    assert [name for name, _ in group.parked()] == [f"b{number}" for number in range(10, 31)]
    group.publish("b31", "a31")
    until(lambda: len(group.seen()) == 70 and len(group.parked()) == 22, 10, what="b31 goes behind")
    poisoned.terminate()
    assert poisoned.wait(10) == 0
    # The next version can do it.
    group.member("fine")
    until(lambda: group.parked() == [], 20, what="what was parked is handled")
    assert in_order(group.seen()) and len(group.seen()) == 92
    assert set(group.runs().values()) <= {1, 2} and group.runs()["b10"] == 2


def test_a_hole_is_noticed_and_closed_when_the_missing_event_comes(group: Group) -> None:
    group.publish("a1", "a2")
    group.member()
    until(lambda: len(group.seen()) == 2, 15)
    group._numbers["a"] += 1  # a3 is lost on its way
    group.publish("a4")
    until(lambda: group.rows("SELECT holes, missing FROM heard") == [("[[3, 3]]", 1)], 10)
    group._numbers["a"] = 2
    group.publish("a3")
    until(lambda: group.rows("SELECT last, missing FROM heard") == [(4, 0)], 10)
