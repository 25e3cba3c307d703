"""A bus that loses what it was given: whoever follows the ledger gets all of it all the same, once, and says until then
that it is not whole."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.redis_server import RedisServer, admin_url
from tests.unit.services.processes import Home, Process
from tests.waiting import until
from tests.wire.test_services_crash import Writers, balance, bus, covenant, home, rows, waiting

__all__ = ["bus", "covenant", "home"]

BODY = {"from": "payer", "to": "till", "amount": "1.00", "currency": "AZR"}


@pytest.fixture
def mint(home: Home, covenant: Process) -> Iterator[Process]:
    process = Process(home, "mint", MC_COVENANT_URL=covenant.url).start()
    yield process
    process.kill()


def record(covenant: Process, count: int, home: Home) -> None:
    """So many transactions, all of which the bus took."""
    for _ in range(count):
        assert covenant.post("/v1/transactions", BODY).status_code == 201
    until(lambda: waiting(home) == 0, 20)


def flush(bus: RedisServer) -> None:
    with redis.Redis.from_url(admin_url(bus.url)) as client:
        client.flushall()


def heights(home: Home) -> list[int]:
    return [
        height for (height,) in rows(home, "mint", "SELECT height FROM postings WHERE account = 'till' ORDER BY id")
    ]


def says(mint: Process) -> tuple[str, str]:
    """What its health is, and of its events."""
    body = mint.get("/health").json()
    return str(body["status"]), str(body["checks"]["events"])


def whole(mint: Process) -> bool:
    return says(mint) == ("ok", "ok")


class Watch:
    """Asks mint how it is, over and over, while its own database says that something is missing."""

    def __init__(self, mint: Process, home: Home) -> None:
        self.mint, self.home = mint, home
        self.lies: list[str] = []
        self.degraded = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            before = self._missing()
            try:
                status, events = says(self.mint)
            except (requests.RequestException, KeyError, ValueError):
                continue
            self.degraded += status == "degraded"
            # Answers are kept for a second: only what was so before and after counts.
            if before and self._missing() == before and events == "ok" and not self._just_now():
                self.lies.append(f"ok, with {before} missing")

    def _just_now(self) -> bool:
        """Whether the answer may be one from before the hole."""
        self._stop.wait(1.1)
        return not (self._missing() and whole(self.mint))

    def _missing(self) -> int:
        return int(rows(self.home, "mint", "SELECT COALESCE(SUM(missing), 0) FROM heard")[0][0])


def cut_tail(bus: RedisServer, folder: Path) -> None:
    """The last half of what Redis appended did not reach the disk."""
    bus.kill()
    [appended] = sorted(folder.rglob("*.incr.aof"))[-1:]
    size = appended.stat().st_size
    os.truncate(appended, size // 2)
    bus.start()


def test_what_redis_loses_under_load_reaches_mint_once(
    covenant: Process, mint: Process, bus: RedisServer, home: Home, tmp_path: Path
) -> None:
    with Watch(mint, home) as watch:
        with Writers(covenant) as writers:
            for turn in range(4):
                aim = len(writers.accepted) + 40
                if turn % 2:
                    # It sleeps while they are published, so that they are lost unread.
                    assert mint.process is not None
                    os.kill(mint.process.pid, signal.SIGSTOP)
                until(lambda aim=aim: len(writers.accepted) >= aim, 60)
                if turn == 2:
                    cut_tail(bus, tmp_path / "redis")
                else:
                    flush(bus)
                if turn % 2:
                    assert mint.process is not None
                    os.kill(mint.process.pid, signal.SIGCONT)
        head = covenant.get("/v1/verify").json()["head"]["height"]
        until(lambda: len(heights(home)) == head and whole(mint), 90, what="mint has every transaction and says so")
    assert sorted(heights(home)) == list(range(1, head + 1))
    assert balance(mint) == f"{head}.00"
    assert watch.lies == []
    assert watch.degraded


def test_a_tail_that_nothing_comes_after_is_missed_too(
    covenant: Process, mint: Process, bus: RedisServer, home: Home
) -> None:
    record(covenant, 3, home)
    until(lambda: heights(home) == [1, 2, 3] and whole(mint), 20)
    assert mint.process is not None
    os.kill(mint.process.pid, signal.SIGSTOP)
    record(covenant, 5, home)
    flush(bus)
    os.kill(mint.process.pid, signal.SIGCONT)
    until(lambda: "cut off" in says(mint)[1] or "did not come" in says(mint)[1], 15, what="it says that it looks")
    until(lambda: len(heights(home)) == 8 and whole(mint), 30)
    assert heights(home) == list(range(1, 9)), "in order"


def test_who_starts_after_the_loss_fetches_everything_before_it_says_ok(
    covenant: Process, bus: RedisServer, home: Home
) -> None:
    record(covenant, 250, home)
    flush(bus)
    mint = Process(home, "mint", MC_COVENANT_URL=covenant.url).start()
    try:
        until(lambda: whole(mint), 30)
        assert heights(home) == list(range(1, 251))
    finally:
        mint.kill()


def test_a_hole_whose_publisher_is_away_is_said_until_it_is_back(
    covenant: Process, mint: Process, bus: RedisServer, home: Home
) -> None:
    record(covenant, 2, home)
    until(lambda: len(heights(home)) == 2, 20)
    assert mint.process is not None
    os.kill(mint.process.pid, signal.SIGSTOP)
    record(covenant, 3, home)
    flush(bus)
    record(covenant, 1, home)
    covenant.kill()
    os.kill(mint.process.pid, signal.SIGCONT)
    until(lambda: heights(home) == [1, 2, 6], 20)
    until(lambda: "3 events never came" in says(mint)[1], 20)
    covenant.start()
    assert mint.post("/events/repair", {}, fleet=False).status_code == 401
    assert mint.post("/events/repair", {}).status_code == 202
    until(lambda: len(heights(home)) == 6 and whole(mint), 60, what="it mends by itself")
    assert sorted(heights(home)) == [1, 2, 3, 4, 5, 6]


def test_only_the_fleet_may_read_what_was_published(covenant: Process, home: Home) -> None:
    record(covenant, 2, home)
    assert covenant.get("/events/published?key=ledger", fleet=False).status_code == 401
    assert covenant.get("/events/published/heads", fleet=False).status_code == 401
    page: dict[str, Any] = covenant.get("/events/published?key=ledger").json()
    assert [event["sequence"] for event in page["events"]] == ["1", "2"]
    assert (page["complete"], page["first"]) == (True, 1)
    assert all(event["mcproof"] for event in page["events"])
    heads = covenant.get("/events/published/heads?type=business.%23").json()
    assert heads["heads"] == [{"key": "ledger", "last": 2}]
    assert covenant.get("/events/published/heads?type=system.%23").json()["heads"] == []


@pytest.mark.parametrize(
    "query",
    ["?key=ledger&after=-1", "?key=ledger&until=99999999999999999999", "", "?key=" + "k" * 300, "/heads?since=x",
     "/heads?type=a..b"],
)  # fmt: skip
def test_bad_questions_about_what_was_published_are_refused(covenant: Process, query: str) -> None:
    answer = covenant.get(f"/events/published{query}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")
