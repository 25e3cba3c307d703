from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest

from services.aegis.guard import FREE, MAX_KEPT, MAX_PAUSE, Guard
from services.aegis.keys import NOTICE_SECONDS, RETIRE_SECONDS, BadKeys, Key, KeyRing, new_key, read, rotate
from services.aegis.tokens import LEEWAY, LIFETIME, claims, grant, issue

NOW = 1_800_000_000.0
WHO = {"issuer": "http://localhost:8080/aegis", "audience": "mission-control"}


def token(key: Key, **changes: Any) -> str:
    given = {"subject": "demo", "scope": "api", "now": NOW, **WHO} | changes
    return issue(key, **given)


def test_a_token_says_what_it_should_and_verifies_with_the_published_key() -> None:
    key = new_key(0.0)
    made = token(key)
    assert jwt.get_unverified_header(made) == {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"}
    public = jwt.PyJWK(key.jwk())
    found = jwt.decode(
        made, public.key, algorithms=["EdDSA"], audience="mission-control", issuer=WHO["issuer"],
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )  # fmt: skip
    assert found["sub"] == "demo" and found["exp"] - found["iat"] == LIFETIME == 900
    assert {"iss", "aud", "nbf", "jti", "scope"} <= set(found)
    assert token(key) != made, "every token has an id of its own"


def test_a_token_holds_for_its_time_only() -> None:
    key = new_key(0.0)
    made = token(key)
    assert claims(made, [key], now=NOW, **WHO)
    assert claims(made, [key], now=NOW + LIFETIME + LEEWAY - 1, **WHO)
    assert claims(made, [key], now=NOW + LIFETIME + LEEWAY, **WHO) is None
    assert claims(made, [key], now=NOW - LEEWAY - 1, **WHO) is None


@pytest.mark.parametrize("change", [{"issuer": "http://elsewhere"}, {"audience": "another"}])
def test_a_token_of_another_issuer_or_for_another_audience_does_not_hold(change: dict[str, str]) -> None:
    key = new_key(0.0)
    assert claims(token(key, **change), [key], now=NOW, **WHO) is None


def test_a_forged_token_does_not_hold() -> None:
    key, other = new_key(0.0), new_key(0.0)
    good = token(key)
    head, body, signature = good.split(".")
    stolen = json.loads(base64.urlsafe_b64decode(body + "==")) | {"sub": "admin"}
    changed = base64.urlsafe_b64encode(json.dumps(stolen).encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": key.kid}).encode()).rstrip(b"=").decode()
    public = key.jwk()["x"]
    confused = jwt.encode(
        {"sub": "admin", "iss": WHO["issuer"], "aud": WHO["audience"], "exp": int(NOW) + 60},
        public.ljust(64, "0"),
        algorithm="HS256",
        headers={"kid": key.kid},
    )
    for bad in (f"{head}.{changed}.{signature}", f"{none}.{body}.", token(other), confused, "", "a.b.c", "…"):
        assert claims(bad, [key], now=NOW, **WHO) is None


def test_scopes_are_granted_only_from_those_allowed() -> None:
    assert grant("", ["api", "audit"]) == "api audit"
    assert grant("audit", ["api", "audit"]) == "audit"
    assert grant("audit root", ["api", "audit"]) is None


def test_the_first_start_makes_a_private_key_file(tmp_path: Path) -> None:
    path = tmp_path / "services" / "keys.json"
    ring = KeyRing(path)
    first = ring.signing(NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing(path).signing(NOW).kid == first.kid, "a restart keeps the key"


def test_a_rotated_key_is_published_before_it_signs_and_the_old_one_after(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(path)
    old = ring.signing(NOW)
    new = rotate(path, NOW)
    assert ring.signing(NOW).kid == old.kid
    assert {key.kid for key in ring.published(NOW)} == {old.kid, new.kid}
    later = NOW + NOTICE_SECONDS
    assert ring.signing(later).kid == new.kid
    assert {key.kid for key in ring.published(later)} == {old.kid, new.kid}
    assert [key.kid for key in ring.published(later + RETIRE_SECONDS)] == [new.kid]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": [{"d": "AA", "signs_from": 0}]}', "[1]"])
def test_a_broken_key_file_is_refused_and_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(BadKeys):
        read(path)
    with pytest.raises(BadKeys):
        KeyRing(path).load()
    assert path.read_text() == content


def test_guessing_is_slowed_down_for_the_guesser_alone() -> None:
    guard = Guard()
    for _ in range(FREE - 1):
        guard.failed("demo", "10.0.0.1", NOW)
        assert guard.wait("demo", "10.0.0.1", NOW) == 0
    pauses = []
    for _ in range(12):
        guard.failed("demo", "10.0.0.1", NOW)
        pauses.append(guard.wait("demo", "10.0.0.1", NOW))
    assert pauses == sorted(pauses) and pauses[0] == 2 and pauses[-1] == MAX_PAUSE
    assert guard.wait("demo", "10.0.0.2", NOW) == 0
    guard.passed("demo", "10.0.0.1")
    assert guard.wait("demo", "10.0.0.1", NOW) == 0


def test_the_memory_of_guesses_is_bounded() -> None:
    guard = Guard()
    for number in range(MAX_KEPT + 50):
        guard.failed(f"client-{number}", "10.0.0.1", NOW)
    assert len(guard._failures) == MAX_KEPT
