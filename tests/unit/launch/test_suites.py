"""The rules of a test run: what could not run is named, and in CI it is a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import machine, suites

ROOT = Path(__file__).resolve().parents[3]

SAMPLE = """
import pytest

@pytest.mark.browser
def test_needs_chromium():
    pass

@pytest.mark.django_db
def test_uses_the_database():
    pass

def test_plain():
    pass
"""


def run_sample(folder: Path, *options: str, **env: str) -> tuple[int, dict[str, object], str]:
    """Run the sample under this project's rules on a machine without Chromium; exit code, counts and output."""
    sample, counts, bare = folder / "test_sample.py", folder / "counts", folder / "bin"
    sample.write_text(SAMPLE)
    bare.mkdir()
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    argv += ["-c", str(ROOT / "pyproject.toml"), *options, str(sample)]
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    # A home of its own: this run's test database may be in use.
    env = inherited | {"PATH": str(bare), "MC_TEST_COUNTS": str(counts), "MC_HOME": str(folder / "home")} | env
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(counts.read_text()), done.stdout + done.stderr


def test_what_the_machine_lacks_is_named_with_its_remedy(tmp_path: Path) -> None:
    code, told, _ = run_sample(tmp_path, "-k", "not database")
    assert code == 0
    assert told["counts"] == {"passed": 1, "failed": 0, "error": 0, "skipped": 1}
    missed = told["missed"]
    assert isinstance(missed, dict)
    ((name, reason),) = missed.items()
    assert name.endswith("::test_needs_chromium")
    assert "Chromium isn't installed (apt-get install chromium)" in reason


def test_in_ci_what_was_left_out_has_failed(tmp_path: Path) -> None:
    code, told, output = run_sample(tmp_path, "-k", "not database", CI="true")
    assert code == 1
    # It fails before it begins, which pytest calls an error.
    assert told["counts"] == {"passed": 1, "failed": 0, "error": 1, "skipped": 0}
    assert "left out, and in CI nothing may be" in output


def test_the_second_database_runs_only_what_uses_one(tmp_path: Path) -> None:
    code, told, _ = run_sample(tmp_path, "--orm")
    assert code == 0
    assert told["counts"] == {"passed": 1, "failed": 0, "error": 0, "skipped": 0}


def rows(path: Path, **missed: str) -> Path:
    counts = {"passed": 3, "failed": 0, "error": 0, "skipped": len(missed)}
    path.write_text("".join(json.dumps({"counts": counts, "missed": missed}) + "\n" for _ in range(2)))
    return path


def test_the_summary_adds_up_and_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(machine, "postgres", lambda program="initdb": f"/bin/{program}")
    assert suites.summary({"unit": 0, "wire": 0}, rows(tmp_path / "a"), 12.3) == 0
    assert "6 passed, 0 failed, 0 could not run, in 12 s." in capsys.readouterr().out
    assert suites.summary({"unit": 0, "wire": 1}, rows(tmp_path / "b"), 1) == 1
    assert "FAILED: wire." in capsys.readouterr().out
    assert suites.summary({"unit": 0}, rows(tmp_path / "c", test_x="no Chromium"), 1) == 0
    assert "  test_x: no Chromium" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert suites.summary({"unit": 0}, rows(tmp_path / "d", test_x="no Chromium"), 1) == 1
    assert "CI does not allow" in capsys.readouterr().out
    monkeypatch.setattr(machine, "postgres", lambda program="initdb": None)
    assert suites.summary({"unit": 0}, rows(tmp_path / "e"), 1) == 1
    assert "every database test, on PostgreSQL" in capsys.readouterr().out


def test_the_callers_own_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_HOME", "/home/mine")
    monkeypatch.setenv("MC_GATEWAY_PORT", "1234")
    monkeypatch.setenv("DATABASE_URL", "postgres://mine")
    env = suites.environment()
    assert {"MC_HOME", "MC_GATEWAY_PORT", "DATABASE_URL"}.isdisjoint(env)
