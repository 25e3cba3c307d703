"""Keys and tokens as pure functions; what crosses the wire is in tests/wire/test_gateway_auth.py."""

from __future__ import annotations

import hashlib
import hmac

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from apps.gateway.core import auth, config
from apps.gateway.core.auth import Denied, Keyring, Tokens, UnknownKey

PEPPER = b"pepper"
SIGNER = Ed25519PrivateKey.generate()
ISSUER = config.Issuer("test", "https://issuer", "us", ("EdDSA",), "http://127.0.0.1/jwks", leeway=5.0)
SETS = {"test": {"k": jwt.PyJWK({**OKPAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True), "alg": "EdDSA"})}}


def keyring(**key: object) -> Keyring:
    hashed = hmac.new(PEPPER, b"secret", hashlib.sha256).hexdigest()
    consumer = config.Consumer("me", rate_limit="mine")
    document = config.Document(1, 0.0, consumers=(consumer,), keys=(config.Key(hashed, "mc_secre", "me", **key),))  # type: ignore[arg-type]
    return Keyring(document, PEPPER)


def tokens(*consumers: config.Consumer) -> Tokens:
    return Tokens(config.Document(1, 0.0, consumers=consumers, issuers=(ISSUER,)), SETS)


def token(now: float = 1000.0, **claims: object) -> bytes:
    body = {"iss": "https://issuer", "aud": ["us", "them"], "sub": "me", "exp": now + 60, **claims}
    return jwt.encode(body, SIGNER, algorithm="EdDSA", headers={"kid": "k"}).encode()


def test_a_key_tells_its_consumer_and_limit() -> None:
    identity = keyring().identify(b"secret", 0.0)
    assert (identity.consumer, identity.rate_limit, identity.line) == ("me", "mine", b"X-Consumer: me\r\n")


def test_a_key_ends_at_its_time_though_it_was_remembered() -> None:
    ring = keyring(expires_at=10.0)
    assert ring.identify(b"secret", 9.9)
    for _ in range(2):
        with pytest.raises(Denied, match="expired"):
            ring.identify(b"secret", 10.0)


def test_memory_of_proofs_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    memory: dict[bytes, auth.Identity] = {}
    for number in range(10):
        auth.remember(memory, b"%d" % number, auth.Identity("x", "key", None, 0.0))
    assert list(memory) == [b"7", b"8", b"9"]


def test_a_token_is_verified_once_and_remembered_until_it_ends() -> None:
    found = tokens()
    raw = token()
    first = found.identify(raw, 1000.0)
    assert found.identify(raw, 1064.9) is first  # leeway counts
    with pytest.raises(Denied) as denied:
        found.identify(raw, 1065.0)
    assert denied.value.problem.failure == "token_expired"


def test_tokens_are_forgotten_when_a_key_set_changes() -> None:
    found = tokens()
    raw = token()
    first = found.identify(raw, 1000.0)
    found.forget()
    assert found.identify(raw, 1000.0) is not first


def test_an_unknown_key_id_is_not_yet_a_refusal() -> None:
    raw = jwt.encode({"iss": "https://issuer", "exp": 2000}, SIGNER, algorithm="EdDSA", headers={"kid": "new"}).encode()
    with pytest.raises(UnknownKey):
        tokens().identify(raw, 1000.0)


def test_a_tokens_consumer_may_have_a_limit_or_be_switched_off() -> None:
    assert tokens(config.Consumer("me", rate_limit="mine")).identify(token(), 1000.0).rate_limit == "mine"
    with pytest.raises(Denied) as denied:
        tokens(config.Consumer("me", enabled=False)).identify(token(), 1000.0)
    assert (denied.value.problem.status, denied.value.problem.failure) == (403, "consumer_disabled")


@pytest.mark.parametrize(
    ("claims", "failure"),
    [
        ({"nbf": 1006}, "token_not_yet_valid"),
        ({"iat": 1006}, "token_not_yet_valid"),
        ({"exp": True}, "token_malformed"),
        ({"aud": "them"}, "token_audience"),
    ],
)
def test_claims_are_checked_against_the_clock_that_is_handed_in(claims: dict[str, object], failure: str) -> None:
    with pytest.raises(Denied) as denied:
        tokens().identify(token(**claims), 1000.0)
    assert denied.value.problem.failure == failure
