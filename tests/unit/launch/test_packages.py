from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from missioncontrol.launch import packages
from missioncontrol.launch.report import Report


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of our own, with nothing on it but a shell's necessities."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "env").symlink_to("/usr/bin/env")
    return tmp_path


def test_only_what_is_missing_is_wanted(bare: Path) -> None:
    script(bare / "present-tool", "true")
    wanted = {"present-tool": "present", "surely-absent-tool": "absent"}
    assert packages.lacking(wanted) == ["absent"]


def test_without_apt_it_says_so(bare: Path) -> None:
    out = io.StringIO()
    assert not packages.install(["chromium"], Report(out))
    assert "this system has no apt-get: chromium" in out.getvalue()


def test_who_may_not_says_so(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bare / "apt-get", "exit 0")
    script(bare / "sudo", "exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    out = io.StringIO()
    assert not packages.install(["chromium"], Report(out))
    assert "this user may not: chromium" in out.getvalue()


def test_a_failure_of_apt_is_told_in_its_own_words(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bare / "apt-get", "echo 'E: Unable to locate package chromium' >&2; exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    out = io.StringIO()
    assert not packages.install(["chromium"], Report(out))
    assert "not installed (E: Unable to locate package chromium): chromium" in out.getvalue()


def test_nothing_missing_asks_nobody(bare: Path) -> None:
    out = io.StringIO()
    assert packages.install([], Report(out))
    assert out.getvalue() == ""
