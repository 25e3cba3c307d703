from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from missioncontrol.launch import stamp
from missioncontrol.launch.settings import PORTS, Settings


def database(
    path: Path, known: str = "mct_a_b", ended: str | None = None, expires: str = "2999-01-01 00:00:00"
) -> None:
    """As the seed leaves it, as far as a start looks at it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE IF EXISTS people_apitoken")
        connection.execute("CREATE TABLE people_apitoken (digest, ended_at, expires_at)")
        row = (hashlib.sha256(known.encode()).hexdigest(), ended, expires)
        connection.execute("INSERT INTO people_apitoken VALUES (?, ?, ?)", row)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    root, home = tmp_path / "checkout", tmp_path / "home"
    for name in ("apps/a/migrations", "missioncontrol", "static"):
        (root / name).mkdir(parents=True)
    (root / "apps/a/migrations/0001_initial.py").write_text("first")
    for name in ("run", "static"):
        (home / name).mkdir(parents=True)
    (home / "static/staticfiles.json").write_text("{}")
    (home / "credentials.json").write_text(json.dumps({"api_token": "mct_a_b"}))
    database(home / "control.sqlite3")
    stamped = Settings(root, home, Path(sys.prefix), "127.0.0.1", PORTS, 60.0, frozenset())
    stamp.write(stamped)
    return stamped


def test_nothing_changed_is_seen(settings: Settings) -> None:
    assert stamp.current(settings)


def test_a_new_migration_counts(settings: Settings) -> None:
    (settings.root / "apps/a/migrations/0002_more.py").write_text("second")
    assert not stamp.current(settings)


def test_another_port_counts_for_the_seeded_addresses(settings: Settings) -> None:
    moved = {**PORTS, "MC_MINT_PORT": 9104}
    other = Settings(settings.root, settings.home, settings.venv, "127.0.0.1", moved, 60.0, frozenset())
    assert not stamp.current(other)


@pytest.mark.parametrize("name", ["control.sqlite3", "credentials.json", "static/staticfiles.json"])
def test_a_removed_result_counts(settings: Settings, name: str) -> None:
    (settings.home / name).unlink()
    assert not stamp.current(settings)


def test_a_database_put_in_the_place_of_the_old_one_counts(settings: Settings) -> None:
    other = settings.home / "restored"
    database(other)
    other.replace(settings.home / "control.sqlite3")
    assert not stamp.current(settings)


def test_a_database_server_is_asked_every_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://db/mission")
    stamp.write(settings)
    assert not stamp.current(settings)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"ended": "2026-01-01 00:00:00"}, id="ended by hand or with the password"),
        pytest.param({"expires": "2020-01-01 00:00:00"}, id="expired"),
        pytest.param({"known": "mct_c_d"}, id="unknown"),
    ],
)
def test_a_token_that_opens_nothing_any_more_counts(settings: Settings, state: dict[str, str]) -> None:
    database(settings.home / "control.sqlite3", **state)
    assert not stamp.current(settings)


def test_a_database_that_is_none_counts(settings: Settings) -> None:
    (settings.home / "control.sqlite3").write_bytes(b"\xff" * 8192)
    assert not stamp.current(settings)
