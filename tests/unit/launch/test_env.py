"""Where a secret comes from, for our processes and, on their own, for services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from missioncontrol import env
from services.kit import settings as kit

READERS = [pytest.param(env.secret, id="missioncontrol"), pytest.param(kit.secret, id="services")]

NAME = "MC_FLEET_TOKEN"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (NAME, f"{NAME}_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MC_HOME", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / NAME.lower()).write_text("made at the first start\n")
    return tmp_path


@pytest.mark.parametrize("secret", READERS)
def test_a_variable_goes_before_a_named_file_and_that_before_the_first_starts(
    secret: Callable[[str], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert secret(NAME) == "made at the first start"
    (home / "mounted").write_text("mounted\n")
    monkeypatch.setenv(f"{NAME}_FILE", str(home / "mounted"))
    assert secret(NAME) == "mounted"
    monkeypatch.setenv(NAME, "given")
    assert secret(NAME) == "given"


@pytest.mark.parametrize("secret", READERS)
def test_a_file_that_is_named_and_lacks_is_never_made_up_for(
    secret: Callable[[str], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{NAME}_FILE", str(home / "mounted"))
    with pytest.raises(ValueError, match=f"{NAME} is not set and .*/mounted can't be read"):
        secret(NAME)
    (home / "mounted").write_text("\n")
    with pytest.raises(ValueError, match=f"/mounted is empty; it should hold {NAME}"):
        secret(NAME)
