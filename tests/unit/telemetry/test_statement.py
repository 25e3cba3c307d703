"""Where an INSERT's data begins, what a statement's verb and format are, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.telemetry.engine.statement import StatementError, split


@pytest.mark.parametrize(
    ("query", "body", "sql", "format_name", "data"),
    [
        (b"", b"INSERT INTO t FORMAT Native\n\x00\xff", "INSERT INTO t ", "Native", b"\x00\xff"),
        (b"", b"INSERT INTO t (a, b) FORMAT Native\n\n\x01", "INSERT INTO t (a, b) ", "Native", b"\n\x01"),
        (b"", b"insert into t format CSV 1,2", "insert into t ", "CSV", b"1,2"),
        (b"INSERT INTO t FORMAT TSV", b"\n1\n", "INSERT INTO t ", "TSV", b"\n1\n"),
        (b"INSERT INTO t FORMAT TSV\n1", b"\n2\n", "INSERT INTO t ", "TSV", b"1\n2\n"),
        (
            b"",
            b"-- FORMAT CSV\nINSERT INTO `FORMAT` FORMAT TSV\n1",
            "-- FORMAT CSV\nINSERT INTO `FORMAT` ",
            "TSV",
            b"1",
        ),
        (
            b"",
            b"INSERT INTO t SETTINGS a = 'FORMAT x' FORMAT TSV 1",
            "INSERT INTO t ",
            "TSV",
            b"1",
        ),
        (b"INSERT INTO t", b"(1)", "INSERT INTO t", "Values", b"(1)"),
        (b"", b"INSERT INTO t (a) VALUES (1), ('FORMAT x')", "INSERT INTO t (a) ", "Values", b" (1), ('FORMAT x')"),
        (b"INSERT INTO t VALUES", b"(1)", "INSERT INTO t ", "Values", b"(1)"),
    ],
)
def test_a_streamed_insert_is_cut_where_its_data_begins(
    query: bytes, body: bytes, sql: str, format_name: str, data: bytes
) -> None:
    statement = split(query, body)
    assert (statement.verb, statement.sql, statement.format, statement.data) == ("INSERT", sql, format_name, data)


@pytest.mark.parametrize(
    ("text", "sql", "settings"),
    [
        (b"INSERT INTO t SETTINGS a = 1, b = 'x' FORMAT TSV 1", "INSERT INTO t ", "SETTINGS a = 1, b = 'x' "),
        (b"INSERT INTO t (a) settings a = 1 FORMAT TSV 1", "INSERT INTO t (a) ", "settings a = 1 "),
        (b"INSERT INTO settings SETTINGS a = 1 FORMAT TSV 1", "INSERT INTO settings ", "SETTINGS a = 1 "),
        (b"INSERT INTO db.settings FORMAT TSV 1", "INSERT INTO db.settings ", ""),
        (b"INSERT INTO `settings` (settings) FORMAT TSV 1", "INSERT INTO `settings` (settings) ", ""),
    ],
)
def test_the_settings_of_a_streamed_insert_stand_apart(text: bytes, sql: str, settings: str) -> None:
    statement = split(b"", text)
    assert (statement.sql, statement.settings, statement.format, statement.data) == (sql, settings, "TSV", b"1")


@pytest.mark.parametrize(
    ("text", "verb", "format_name"),
    [
        ("SELECT 1", "SELECT", None),
        ("select 1 format JSON", "SELECT", "JSON"),
        ("WITH 1 AS format SELECT format FORMAT CSV;", "WITH", "CSV"),
        ("SELECT 'x FORMAT y'", "SELECT", None),
        ("SELECT 1 AS format FROM t", "SELECT", None),
        ("SELECT 1 AS format", "SELECT", None),
        ("SELECT 1 AS format SETTINGS max_threads = 1", "SELECT", None),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "SELECT", "JSON"),
        ("SELECT 1 SETTINGS max_threads = 1 FORMAT JSON", "SELECT", "JSON"),
        ("SELECT * FROM (SELECT 1 FORMAT JSON)", "SELECT", None),
        ("(SELECT 1)", "(", None),
        ("/* hi */ SHOW TABLES", "SHOW", None),
        ("INSERT INTO t SELECT 1 FORMAT Null", "INSERT", None),
        ("EXPLAIN SELECT 1", "EXPLAIN", None),
        ("", "", None),
        ("  -- nothing", "", None),
    ],
)
def test_other_statements_stay_whole(text: str, verb: str, format_name: str | None) -> None:
    statement = split(b"", text.encode())
    assert (statement.verb, statement.format, statement.data) == (verb, format_name, None)
    assert statement.sql == text


@pytest.mark.parametrize("text", ["SET a = 1", "USE db", "CREATE TEMPORARY TABLE t (a UInt8)"])
def test_what_changes_its_connection_is_marked(text: str) -> None:
    assert split(b"", text.encode()).local


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; SELECT 2",
        "SELECT '\xff",
    ],
)
def test_several_statements_at_once_are_refused(text: str) -> None:
    with pytest.raises(StatementError):
        split(b"", text.encode("latin-1"))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_cut_or_refused_and_nothing_else(query: bytes, body: bytes) -> None:
    try:
        statement = split(query, body)
    except StatementError as error:
        assert error.code
    else:
        assert isinstance(statement.sql, str)


@given(st.binary(max_size=300))
def test_data_after_the_format_is_never_touched(data: bytes) -> None:
    assert split(b"", b"INSERT INTO t FORMAT Native\n" + data).data == data
