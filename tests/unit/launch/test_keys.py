"""Which keys a process reads, and what it says when they can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from missioncontrol import keys
from services.kit import env


def test_a_gateway_elsewhere_checks_by_the_public_key_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MC_HOME", str(tmp_path))
    signed = keys.signer().close("p", b"x", 1.0)
    public = keys.signer().public
    monkeypatch.delenv("MC_REVISION_KEY")
    with pytest.raises(env.EnvError, match="MC_REVISION_KEY"):
        keys.verifier()
    monkeypatch.setenv("MC_REVISION_PUBLIC_KEY", public)
    assert keys.verifier().open("p", signed).body == b"x"
    monkeypatch.delenv("MC_REVISION_PUBLIC_KEY")
    (tmp_path / "key").write_text(public + "\n")
    monkeypatch.setenv("MC_REVISION_PUBLIC_KEY_FILE", str(tmp_path / "key"))
    assert keys.verifier().open("p", signed).body == b"x"


def test_a_public_key_that_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_REVISION_PUBLIC_KEY", "nonsense")
    with pytest.raises(env.EnvError, match="keys prints it"):
        keys.verifier()


def test_the_public_key_is_printed_for_gateways_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main() == 0
    assert capsys.readouterr().out.strip() == keys.signer().public


def test_what_stays_inside_the_control_plane_has_a_key_that_no_gateway_has() -> None:
    inside = keys.inner().close("p", b"x", 1.0)
    with pytest.raises(ValueError, match="nobody we know"):
        keys.wire().open("p", inside)
