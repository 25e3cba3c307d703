"""Migration files: cut into statements, checksummed by meaning, and in order."""

from __future__ import annotations

import pytest

from apps.telemetry.schema import runner


def test_files_come_in_order_and_every_statement_may_be_repeated() -> None:
    files = runner.files()
    names = [file.name for file in files]
    assert names == sorted(names)
    assert len({name[:4] for name in names}) == len(names)
    for file in files:
        for statement in file.statements:
            assert "IF NOT EXISTS" in statement or statement.startswith("ALTER"), (file.name, statement[:60])


def test_a_comment_does_not_change_a_checksum_and_a_column_does() -> None:
    plain = runner.read("x", "CREATE TABLE t (a UInt8);")
    assert runner.read("x", "-- said better\nCREATE  TABLE t\n(a UInt8)\n;").checksum == plain.checksum
    assert runner.read("x", "CREATE TABLE t (a UInt16);").checksum != plain.checksum


def test_an_odd_database_name_is_refused() -> None:
    with pytest.raises(runner.SchemaError, match="plain name"):
        runner.apply(None, "a; DROP", [])  # type: ignore[arg-type]
