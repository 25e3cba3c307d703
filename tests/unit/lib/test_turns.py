"""Taking turns at SQLite's one place to write, beside somebody who is there most of the time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connection, transaction

from apps.lib import turns
from apps.lib.turns import turn
from tests.waiting import patient

pytestmark = pytest.mark.django_db(transaction=True)


def patience() -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        return int(cursor.fetchone()[0])


@contextmanager
def somebody(*, holds_s: float, leaves_s: float) -> Iterator[None]:
    """Another connection that writes for so long, again and again."""
    over, there = threading.Event(), threading.Event()

    def write() -> None:
        other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, timeout=patient(10))
        while not over.is_set():
            other.execute("BEGIN IMMEDIATE")
            there.set()
            over.wait(holds_s)
            other.execute("ROLLBACK")
            over.wait(leaves_s)
        other.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert there.wait(patient(10))
        yield
    finally:
        over.set()
        writer.join()


if connection.vendor == "sqlite":  # Elsewhere nobody waits for a turn.

    def test_who_writes_most_of_the_time_is_followed_at_once() -> None:
        connection.ensure_connection()
        with somebody(holds_s=0.05, leaves_s=0.005):
            began = time.monotonic()
            for _ in range(10):
                with turn():
                    pass
            # Ten times the other's, and as often a little more; SQLite's own looks take seconds.
            assert time.monotonic() - began < patient(2)
        assert patience() == turns.PATIENCE_S * 1000

    def test_one_that_is_always_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns, "PATIENCE_S", 0.05)
        connection.ensure_connection()
        with somebody(holds_s=60, leaves_s=0), pytest.raises(OperationalError, match="locked"), turn():
            raise AssertionError("two write at once")
        assert not connection.in_atomic_block


def test_within_a_transaction_it_is_a_part_of_it() -> None:
    with transaction.atomic(), pytest.raises(ValueError, match="undone"), turn():
        raise ValueError("undone")
    with turn():
        assert connection.in_atomic_block
