"""The probing loop: a slow instance delays nobody, and what was found is recorded even when the round has left."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as StillRunning
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db import DatabaseError

from apps.health.core import Standing, Thresholds
from apps.health.prober import Prober, ProberOfProcess
from apps.health.probes import Finding, Request
from apps.health.rounds import Target
from apps.lib.addresses import Guard, Policy
from tests.serving import serving
from tests.waiting import free_port, patient, until

pytestmark = pytest.mark.django_db(transaction=True)


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@pytest.fixture
def good() -> Iterator[str]:
    with serving(Server(("127.0.0.1", 0), Health)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def mute() -> Iterator[str]:
    """Accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Book:
    def __init__(self) -> None:
        self.found: list[tuple[Target, Finding]] = []
        self.batches = 0
        self.broken = False
        self.faulty = False

    def record(self, found: Sequence[tuple[Target, Finding]]) -> None:
        self.batches += 1
        if self.faulty:
            raise RuntimeError("a mistake of ours")
        if self.broken:
            raise DatabaseError("the disk is full")
        self.found += found


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def prober(book: Book) -> Iterator[Prober]:
    prober = Prober(book.record, "test", Guard(Policy()))
    yield prober
    prober.stop()
    assert not prober.alive


def target(url: str, timeout: float = 5.0, number: int = 1) -> Target:
    return Target(number, f"s/i-{number}", "s", Request(url, timeout), Standing(), Thresholds(2, 2), 0, 0.0, "c")


def test_a_round_is_done_when_its_findings_are_recorded(prober: Prober, book: Book, good: str) -> None:
    prober.start([target(good, number=n) for n in range(50)]).result(10)
    assert sorted(found.instance_id for found, _ in book.found) == list(range(50))
    assert {finding.detail for _, finding in book.found} == {"answered 200"}


def test_findings_are_recorded_in_batches(prober: Prober, book: Book) -> None:
    refused = f"http://127.0.0.1:{free_port()}"
    prober.start([target(refused, number=n) for n in range(300)]).result(20)
    assert len(book.found) == 300
    assert book.batches < 100


def test_an_empty_round_is_done_at_once(prober: Prober) -> None:
    prober.start([]).result(0)


def test_a_slow_instance_delays_nobody(prober: Prober, book: Book, good: str, mute: str) -> None:
    slow = prober.start([target(mute, 1.5, 1), target(good, number=2)])
    with pytest.raises(StillRunning):
        slow.result(0.8)
    assert [found.instance_id for found, _ in book.found] == [2]
    prober.start([target(good, number=3)]).result(0.8)
    slow.result(3)
    assert [(found.instance_id, finding.detail) for found, finding in book.found][-1] == (1, "no answer in 1.5 s")


def test_a_database_that_fails_costs_a_batch_and_not_the_loop(prober: Prober, book: Book, good: str) -> None:
    book.broken = True
    prober.start([target(good)]).result(5)
    book.broken = False
    prober.start([target(good)]).result(5)
    assert len(book.found) == 1


def test_stopping_finishes_what_is_under_way(book: Book, mute: str) -> None:
    prober = Prober(book.record, "test", Guard(Policy()))
    prober.start([target(mute, 0.5)])
    until(lambda: bool(prober._running), 2)
    prober.stop()
    assert [finding.detail for _, finding in book.found] == ["no answer in 0.5 s"]


def test_stopping_waits_no_longer_than_it_is_told(book: Book, mute: str) -> None:
    prober = Prober(book.record, "test", Guard(Policy()))
    prober.start([target(mute, 30)])
    until(lambda: bool(prober._running), 2)
    start = time.monotonic()
    prober.stop(0.3)
    assert time.monotonic() - start < patient(3)
    assert not prober.alive


def test_a_process_has_one_prober_and_gets_a_new_one_after_a_stop(book: Book, good: str) -> None:
    process = ProberOfProcess(book.record, "test", Guard(Policy()))
    process.stop()
    first = process.get()
    assert process.get() is first
    process.stop()
    second = process.get()
    assert second is not first
    second.start([target(good)]).result(5)
    process.stop()


def test_a_fault_in_recording_is_said_and_the_next_round_gets_a_new_prober(
    book: Book, good: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = ProberOfProcess(book.record, "test", Guard(Policy()))
    book.faulty = True
    first = process.get()
    first.start([target(good)]).result(5)
    until(lambda: not first.alive, 5)
    assert "a mistake of ours" in caplog.text
    book.faulty = False
    process.get().start([target(good)]).result(5)
    process.stop()
    assert len(book.found) == 1
