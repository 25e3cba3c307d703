from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from missioncontrol.launch import venv
from missioncontrol.launch.report import Report, Stop


def test_what_is_installed_is_left_alone_until_the_requirements_change(tmp_path: Path) -> None:
    folder, wanted, log = tmp_path / "venv", tmp_path / "requirements.txt", tmp_path / "log"
    wanted.write_text("# nothing yet\n")
    out = io.StringIO()
    venv.ensure(folder, [wanted], log, Report(out))
    assert (folder / "bin" / "python").exists()
    assert "virtual environment made" in out.getvalue()

    again = io.StringIO()
    venv.ensure(folder, [wanted], log, Report(again))
    assert again.getvalue() == ""

    wanted.write_text("# something else\n")
    venv.ensure(folder, [wanted], log, Report(again))
    assert "installed" in again.getvalue()
    assert "made" not in again.getvalue()

    # Its Python is gone: made anew.
    (folder / "bin" / "python").unlink()
    venv.ensure(folder, [wanted], log, Report(again))
    assert "virtual environment made" in again.getvalue()


def test_a_change_in_an_included_file_counts(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("a==1\n")
    (tmp_path / "dev.txt").write_text("-r base.txt\nb==1\n")
    before = venv._digest(tmp_path / "dev.txt")
    (tmp_path / "base.txt").write_text("a==2\n")
    assert venv._digest(tmp_path / "dev.txt") != before
    assert venv._count(tmp_path / "dev.txt") == 2


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "requirements.txt").touch()
    with pytest.raises(Stop, match=r"The virtual environment can't be made at .* set MC_VENV"):
        venv.ensure(
            tmp_path / "file" / "venv", [tmp_path / "requirements.txt"], tmp_path / "log", Report(io.StringIO())
        )


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["ERROR: No matching distribution found for x==1"], "No matching distribution found for x==1"),
        (["WARNING: Retrying (Retry(total=0)) NewConnectionError('…')", "ERROR: No matching"], "can't be reached"),
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"], "disk is full"),
        ([], "pip said nothing"),
    ],
)
def test_pips_words_become_one_sentence(lines: list[str], says: str) -> None:
    said = venv.explain(lines)
    assert says in said
    assert "\n" not in said


def test_the_pinned_requirements_name_each_package_once() -> None:
    root = Path(__file__).resolve().parents[3]
    for name in ("requirements.txt", "requirements-dev.txt"):
        rows = [line.split(";")[0].strip() for line in (root / name).read_text().splitlines()]
        pins = [row for row in rows if row and not row.startswith(("#", "-"))]
        assert all("==" in pin for pin in pins), name
        names = [pin.split("==")[0].lower() for pin in pins]
        assert len(names) == len(set(names)), name


def test_this_python_is_new_enough() -> None:
    assert sys.hexversion >= 0x030B0000
