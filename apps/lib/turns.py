"""A transaction for who writes beside others that write again and again: publishers and the relay.

SQLite lets one write at a time, and who waits looks again after 1, 2, 5, 10, 15, 20, 25 … 100 ms. A publisher with much
to say leaves a millisecond between two batches: looking so seldom, the relay would miss that for a second and more, and
a publisher would sleep on where the relay was done long ago.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from django.db import OperationalError, connection, transaction

LOOK_EVERY_S = 0.0005
PATIENCE_S = 5.0
"""As long as any other writer waits."""


@contextmanager
def turn() -> Iterator[None]:
    """``transaction.atomic()`` that begins as soon as nobody else writes; OperationalError if somebody always does."""
    with ExitStack() as stack:
        if connection.vendor != "sqlite" or connection.in_atomic_block:
            stack.enter_context(transaction.atomic())
        else:
            _begin(stack)
        yield


def _begin(stack: ExitStack) -> None:
    until = time.monotonic() + PATIENCE_S
    connection.ensure_connection()
    driver: sqlite3.Connection = connection.connection
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                stack.enter_context(transaction.atomic())
                return
            except OperationalError as error:
                if not _is_held(error) or time.monotonic() > until:
                    raise
            time.sleep(LOOK_EVERY_S)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(PATIENCE_S * 1000)}")


def _is_held(error: OperationalError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY)
