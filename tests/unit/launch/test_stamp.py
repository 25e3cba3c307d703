from __future__ import annotations

import sys
from pathlib import Path

import pytest

from missioncontrol.launch import stamp
from missioncontrol.launch.settings import PORTS, Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    root, home = tmp_path / "checkout", tmp_path / "home"
    for name in ("apps/a/migrations", "missioncontrol", "static"):
        (root / name).mkdir(parents=True)
    (root / "apps/a/migrations/0001_initial.py").write_text("first")
    for name in ("run", "static"):
        (home / name).mkdir(parents=True)
    for name in ("control.sqlite3", "credentials.json", "static/staticfiles.json"):
        (home / name).write_text("{}")
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
    database = settings.home / "control.sqlite3"
    other = settings.home / "restored"
    other.write_text("{}")
    other.replace(database)
    assert not stamp.current(settings)


def test_a_database_server_is_asked_every_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://db/mission")
    stamp.write(settings)
    assert not stamp.current(settings)
