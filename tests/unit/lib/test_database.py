"""A database that is away is told from a query that is wrong, by the engines' own errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest

from apps.lib.database import away, beyond
from tests.waiting import free_port


def raised(path: Path, *statements: str) -> sqlite3.Error:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError("nothing was raised")


def test_sqlite_says_why_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    fill = ("CREATE TABLE t (x)", "PRAGMA max_page_count = 2", "INSERT INTO t VALUES (zeroblob(1000000))")
    found = away(raised(path, *fill))
    assert found is not None and found.status == 503 and "full" in found.detail and found.retry_after
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert away(raised(path, "INSERT INTO t VALUES (1)")) is not None
    holder.close()
    assert away(raised(path, "PRAGMA query_only = ON", "INSERT INTO t VALUES (1)")) is not None
    path.write_bytes(b"\xff" * 8192)
    assert away(raised(path, "SELECT * FROM t")) is not None


@pytest.mark.parametrize("statement", ["SELECT * FROM nothing", "SELEC", "SELECT " + "+".join(["1"] * 5000)])
def test_a_wrong_query_is_no_absence(tmp_path: Path, statement: str) -> None:
    assert away(raised(tmp_path / "a.sqlite3", statement)) is None


def test_postgresql_that_can_not_be_reached_is_away() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(f"postgres://a@127.0.0.1:{free_port()}/a", connect_timeout=1)
    outer = RuntimeError("Django's own")
    outer.__cause__ = caught.value
    assert away(outer) is not None and beyond(outer) is None


@pytest.mark.parametrize(
    ("error", "is_away", "is_beyond"),
    [
        (psycopg.errors.AdminShutdown(), True, False),
        (psycopg.errors.DiskFull(), True, False),
        (psycopg.errors.ReadOnlySqlTransaction(), True, False),
        (psycopg.errors.DeadlockDetected(), True, False),
        (psycopg.errors.UndefinedTable(), False, False),
        (psycopg.errors.UniqueViolation(), False, False),
        (psycopg.errors.NumericValueOutOfRange(), False, True),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), False, True),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), False, True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), False, True),
        (OverflowError("math range error"), False, False),
        (None, False, False),
    ],
)
def test_each_kind_is_told_apart(error: BaseException | None, is_away: bool, is_beyond: bool) -> None:
    assert (away(error) is not None, beyond(error) is not None) == (is_away, is_beyond)
