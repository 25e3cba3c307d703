"""Keys from the environment and from a file that changes under them."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.kit.env import EnvError
from services.kit.events import keys
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.signing import NoKey
from tests.fleet import ROOT

EVENT = CloudEvent("1", "a.b.c", "covenant", 0.0, {})
OLD, NEW = "o" * 48, "n" * 48


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MC_HOME", str(tmp_path))
    for name in ("MC_BUS_KEYS", "MC_BUS_KEYS_FILE", "MC_BUS_TRUST"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "secrets").mkdir()
    return tmp_path


def put(home: Path, *lines: str) -> Path:
    path = home / "secrets" / "mc_bus_keys"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_variable_says_all(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    put(home, f"covenant={OLD}")
    monkeypatch.setenv("MC_BUS_KEYS", f"covenant={NEW} https%3A%2F%2Fshop.example={OLD}")
    found = keys.read()
    assert found.refusal(found.sign(EVENT, "covenant")) == ""
    assert found.sign(EVENT, "https://shop.example")
    monkeypatch.delenv("MC_BUS_KEYS")
    assert "not known here" in found.refusal(keys.read().sign(EVENT, "covenant"))


def test_a_file_may_be_named(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("MC_BUS_KEYS_FILE", str(put(home, f"covenant={OLD}").rename(home / "else")))
    assert keys.read().sign(EVENT, "covenant")


def test_sources_may_be_trusted_without_a_key(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    put(home, f"covenant={OLD}")
    monkeypatch.setenv("MC_BUS_TRUST", "legacy, covenant")
    with pytest.raises(EnvError, match="covenant can't be believed"):
        keys.read()
    monkeypatch.setenv("MC_BUS_TRUST", "legacy")
    assert keys.read().refusal(CloudEvent("1", "a.b.c", "legacy", 0.0, {})) == ""


@pytest.mark.parametrize("text", ["covenant", f"covenant: {OLD}", f"={OLD}", "covenant=", "covenant=short"])
def test_what_holds_no_keys_is_one_sentence_that_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch, home: Path, text: str
) -> None:
    put(home, text)
    with pytest.raises(EnvError, match="mc_bus_keys") as fault:
        keys.read()
    monkeypatch.setenv("MC_BUS_KEYS", text)
    with pytest.raises(EnvError, match="MC_BUS_KEYS") as said:
        keys.read()
    assert OLD not in str(fault.value) and OLD not in str(said.value)


def test_without_any_nothing_is_believed_and_it_says_where_they_should_be(home: Path) -> None:
    found = keys.read()
    assert "MC_BUS_KEYS or " in found.usable() and str(home / "secrets") in found.usable()
    with pytest.raises(NoKey, match="should hold them"):
        found.sign(EVENT, "covenant")
    # And then somebody makes them.
    put(home, f"covenant={OLD}")
    assert found.refusal(found.sign(EVENT, "covenant")) == "" and found.usable() == ""


def test_keys_are_exchanged_while_everything_runs(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    path = put(home, f"covenant={OLD}", f"mint={OLD}")
    reader = keys.read()
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    publisher = keys.read()
    first = publisher.sign(EVENT, "covenant")
    keys.exchange(path, "covenant")
    second = publisher.sign(EVENT, "covenant")
    assert first.extensions != second.extensions
    # The reader has not looked meanwhile: a key that it does not know is a reason to.
    assert reader.refusal(second) == reader.refusal(first) == ""
    keys.exchange(path, "covenant")
    third = publisher.sign(EVENT, "covenant")
    assert reader.refusal(third) == reader.refusal(second) == "" and "not known here" in reader.refusal(first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines()[-1] == f"mint={OLD}"


@pytest.mark.parametrize("text", ["half a", None])
def test_a_file_that_is_spoilt_leaves_the_keys_known_before(
    home: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    path = put(home, f"covenant={OLD}")
    found = keys.read()
    signed = found.sign(EVENT, "covenant")
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            assert "not known here" in found.refusal(
                CloudEvent("1", "a.b.c", "covenant", 0.0, {}, extensions={"mckey": "?", "mcproof": "?"})
            )
    assert found.refusal(signed) == "" and len(caplog.records) == 1 and OLD not in caplog.text


def test_the_command_makes_a_new_key(home: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "services.kit.events.keys", *words]
        env = os.environ | {"MC_HOME": str(home)}
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert run().returncode == 2
    assert run("https://shop.example/a b").returncode == 0
    done = run("covenant")
    assert done.returncode == 0 and "covenant signs by the newest key" in done.stdout
    found = keys.read()
    assert found.sign(EVENT, "covenant") and found.sign(EVENT, "https://shop.example/a b")
    secret = (home / "secrets" / "mc_bus_keys").read_text().split("=")[1].split()[0]
    assert secret not in done.stdout + done.stderr
    put(home, "nonsense")
    spoilt = run("covenant")
    assert spoilt.returncode == 2 and "mc_bus_keys" in spoilt.stderr and "Traceback" not in spoilt.stderr
