from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from missioncontrol.launch import layout
from missioncontrol.launch.report import Stop


def test_folders_and_secrets_are_for_the_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    layout.make_folders(home)
    assert layout.make_secrets(home) == list(layout.SECRETS)
    for path in (home, *home.iterdir(), *(home / "secrets").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    assert len({(home / "secrets" / name).read_text() for name in layout.SECRETS}) == len(layout.SECRETS)


def test_a_secret_that_is_there_is_never_touched(tmp_path: Path) -> None:
    layout.make_folders(tmp_path)
    (tmp_path / "secrets" / "mc_key_pepper").write_text("mine")
    made = layout.make_secrets(tmp_path)
    assert "mc_key_pepper" not in made
    assert (tmp_path / "secrets" / "mc_key_pepper").read_text() == "mine"
    before = (tmp_path / "secrets" / "django_secret_key").read_text()
    assert layout.make_secrets(tmp_path) == []
    assert (tmp_path / "secrets" / "django_secret_key").read_text() == before


def test_a_home_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Stop, match=r"MC_HOME is .*/file/home, which can't be written \(not a directory\)"):
        layout.make_folders(tmp_path / "file" / "home")


def test_a_home_has_room_for_one(tmp_path: Path) -> None:
    layout.make_folders(tmp_path)
    assert not layout.running(tmp_path)
    first = layout.Lock(tmp_path)
    assert layout.running(tmp_path)
    with pytest.raises(Stop, match=rf"already runs in .* \(process {os.getpid()}\)"):
        layout.Lock(tmp_path)
    first.release()
    layout.Lock(tmp_path).release()
    assert not layout.running(tmp_path)


def test_the_socket_lies_in_the_home_unless_the_path_is_too_long(tmp_path: Path) -> None:
    short = Path("/srv/mc")
    assert layout.supervisor_socket(short) == short / "run" / "supervisor.sock"
    home = tmp_path / ("long" * 30)
    moved = layout.supervisor_socket(home)
    assert home not in moved.parents
    assert len(os.fsencode(moved)) + layout.SOCKET_SUFFIX <= layout.SOCKET_LIMIT
    assert moved.parent.stat().st_mode & 0o077 == 0
    layout.remove_socket(home, moved)
    assert not moved.parent.exists()


def test_addresses_tell_where_a_run_listens(tmp_path: Path) -> None:
    layout.make_folders(tmp_path)
    layout.write_addresses(tmp_path, "127.0.0.1", {"MC_GATEWAY_PORT": 8080})
    said = json.loads((tmp_path / "run" / "addresses.json").read_text())
    assert said == {"MC_HOST": "127.0.0.1", "MC_GATEWAY_PORT": 8080}
