"""Keys and tokens as pure functions; what crosses the wire is in tests/wire/test_gateway_auth.py."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
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


ME = config.Consumer("me", subjects=("test/me",))
TRUSTED = frozenset({"test"})


def tokens(*consumers: config.Consumer, **issuer: object) -> Tokens:
    trusted = msgspec.structs.replace(ISSUER, **issuer)
    return Tokens(config.Document(1, 0.0, consumers=consumers or (ME,), issuers=(trusted,)), SETS)


def ask(found: Tokens, raw: bytes, now: float = 1000.0, accepted: frozenset[str] = TRUSTED) -> auth.Identity:
    return found.identify(raw, now, accepted)


def refusal(found: Tokens, raw: bytes, accepted: frozenset[str] = TRUSTED) -> str:
    with pytest.raises(Denied) as denied:
        ask(found, raw, accepted=accepted)
    return denied.value.problem.failure


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
    first = ask(found, raw)
    assert ask(found, raw, 1064.9) is first  # leeway counts
    with pytest.raises(Denied) as denied:
        ask(found, raw, 1065.0)
    assert denied.value.problem.failure == "token_expired"


def test_tokens_are_forgotten_when_a_key_set_changes() -> None:
    found = tokens()
    raw = token()
    first = ask(found, raw)
    found.forget()
    assert ask(found, raw) is not first


def test_an_unknown_key_id_is_not_yet_a_refusal() -> None:
    raw = jwt.encode({"iss": "https://issuer", "exp": 2000}, SIGNER, algorithm="EdDSA", headers={"kid": "new"}).encode()
    with pytest.raises(UnknownKey):
        ask(tokens(), raw)


def test_a_tokens_consumer_may_have_a_limit_or_be_switched_off() -> None:
    limited = config.Consumer("me", rate_limit="mine", subjects=("test/me",))
    assert ask(tokens(limited), token()).rate_limit == "mine"
    with pytest.raises(Denied) as denied:
        ask(tokens(config.Consumer("me", enabled=False, subjects=("test/me",))), token())
    assert (denied.value.problem.status, denied.value.problem.failure) == (403, "consumer_disabled")


@pytest.mark.parametrize(
    ("claims", "failure"),
    [
        ({"nbf": 1006}, "token_not_yet_valid"),
        ({"iat": 1006}, "token_not_yet_valid"),
        ({"exp": True}, "token_malformed"),
        ({"exp": None}, "token_malformed"),
        ({"exp": "1060"}, "token_malformed"),
        ({"exp": -1}, "token_malformed"),
        ({"exp": 10**400}, "token_malformed"),
        ({"exp": 253_402_300_800}, "token_malformed"),
        ({"exp": 1060, "iat": [1000]}, "token_malformed"),
        ({"nbf": 10**400}, "token_malformed"),
        ({"iat": -(10**400)}, "token_malformed"),
        ({"aud": "them"}, "token_audience"),
    ],
)
def test_claims_are_checked_against_the_clock_that_is_handed_in(claims: dict[str, object], failure: str) -> None:
    assert refusal(tokens(), token(**claims)) == failure


def test_a_time_may_have_a_fraction() -> None:
    assert ask(tokens(), token(exp=1000.5)).expires_at == 1005.5


def signed(header: str, claims: str | bytes) -> bytes:
    """A token whose parts are exactly these, under a good signature."""
    raw = claims if isinstance(claims, bytes) else claims.encode()
    message = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header.encode(), raw))
    return message + b"." + base64.urlsafe_b64encode(SIGNER.sign(message)).rstrip(b"=")


HEADER = '{"alg":"EdDSA","kid":"k"}'
CLAIMS = '{"iss":"https://issuer","aud":"us","sub":"me","exp":1060}'


def with_exp(text: str) -> bytes:
    return signed(HEADER, CLAIMS.replace("1060", text))


@pytest.mark.parametrize(
    "raw",
    [
        with_exp("NaN"),
        with_exp("Infinity"),
        with_exp("-Infinity"),
        with_exp("1e400"),
        with_exp("1" + "0" * 400),
        with_exp("1" + "0" * 5000),
        signed(HEADER, CLAIMS[:-1] + ',"sub":"you"}'),
        signed(HEADER[:-1] + ',"alg":"none"}', CLAIMS),
        signed(HEADER, "\ufeff" + CLAIMS),
        signed("\ufeff" + HEADER, CLAIMS),
        signed(HEADER, CLAIMS.encode("utf-16")),
        signed(HEADER, CLAIMS.encode() + b"\xff"),
        signed(HEADER, "[" + CLAIMS + "]"),
        signed(HEADER, "null"),
        signed(HEADER, ""),
        signed(HEADER, "[" * 5000),
        signed(HEADER, CLAIMS[:-1] + ',"x":' + "[" * 2000 + "]" * 2000 + "}"),
        signed(HEADER, CLAIMS[:-1] + ',"x":"' + "x" * 9000 + '"}'),
        signed(HEADER, CLAIMS) + b"==",
        signed(HEADER, CLAIMS).replace(b".", b"=.", 1),
        signed(HEADER, CLAIMS).replace(b".", b"\n.", 1),
        signed(HEADER, CLAIMS) + b".",
        b"..",
        b"",
        b"\x00\xff" * 100,
    ],
    ids=range(25),
)
def test_a_token_that_is_not_written_to_the_letter_is_no_token(raw: bytes) -> None:
    assert ask(tokens(), signed(HEADER, CLAIMS)).consumer == "me"
    assert refusal(tokens(), raw) == "token_malformed"


def test_a_signature_in_another_spelling_is_refused() -> None:
    good = signed(HEADER, CLAIMS)
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes leave four bits of the last letter unused: this one decodes to the same signature.
    twin = good[:-1] + letters[letters.index(good[-1:]) | 1 :][:1]
    assert twin != good and refusal(tokens(), twin) == "token_malformed"


@pytest.mark.parametrize(
    "subject",
    ["you", "demo, root", "me\r\nX-Consumer: root", "Me", "mé", "me ", "", "test/me", "../me", "x" * 64, "\ud800"],
)
def test_a_subject_that_no_consumer_claims_is_refused(subject: str) -> None:
    assert refusal(tokens(), token(sub=subject)) == "token_subject"


def test_a_consumer_speaks_by_the_subjects_it_claims_whatever_they_look_like() -> None:
    found = tokens(config.Consumer("billing", subjects=("test/auth0|5F7c", "test/4711")))
    assert {ask(found, token(sub=subject)).consumer for subject in ("auth0|5F7c", "4711")} == {"billing"}
    assert refusal(found, token(sub="billing")) == "token_subject"


def test_an_issuers_own_subjects_call_under_its_name_and_never_as_a_consumer() -> None:
    found = tokens(ME, config.Consumer("root"), subjects="any")
    assert ask(found, token(sub="root")).consumer == "test/root"
    assert ask(found, token(sub="root")).line == b"X-Consumer: test/root\r\n"
    assert ask(found, token(sub="me")).consumer == "me"
    for odd in ("demo, root", "a/b", "A", "x\r\ny", "x" * 64):
        assert refusal(found, token(sub=odd)) == "token_subject"
    assert refusal(found, token(sub=7)) == "token_malformed"


def test_a_second_issuers_subject_is_not_the_firsts_though_both_use_one_key_id() -> None:
    other = Ed25519PrivateKey.generate()
    second = config.Issuer("other", "https://other", "us", ("EdDSA",), "http://127.0.0.1/other")
    public = {**OKPAlgorithm.to_jwk(other.public_key(), as_dict=True), "alg": "EdDSA"}
    both = {**SETS, "other": {"k": jwt.PyJWK(public)}}
    found = Tokens(config.Document(1, 0.0, consumers=(ME,), issuers=(ISSUER, second)), both)
    accepted = frozenset({"test", "other"})
    claims = {"iss": "https://other", "aud": "us", "sub": "me", "exp": 1060}
    theirs = jwt.encode(claims, other, algorithm="EdDSA", headers={"kid": "k"}).encode()
    assert ask(found, token(), accepted=accepted).consumer == "me"
    assert refusal(found, theirs, accepted) == "token_subject"
    # Nor does the second's key vouch for the first's tokens.
    claims["iss"] = "https://issuer"
    forged = jwt.encode(claims, other, algorithm="EdDSA", headers={"kid": "k"}).encode()
    assert refusal(found, forged, accepted) == "token_signature"


def test_only_the_issuers_that_a_route_names_count_remembered_or_not() -> None:
    found = tokens()
    raw = token()
    assert refusal(found, raw, frozenset()) == "token_issuer"
    assert ask(found, raw)
    assert refusal(found, raw, frozenset({"other"})) == "token_issuer"
    assert refusal(tokens(enabled=False), raw) == "token_issuer"


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": 1000 + 600}, True),
        ({"exp": 1000 + 600, "iat": 1000}, True),
        ({"exp": 1000 + 700}, False),
        ({"exp": 1000 + 30 * 31_536_000}, False),
        ({"exp": 1001, "iat": 1001 - 600}, True),
        ({"exp": 1001, "iat": 1001 - 700}, False),
    ],
)
def test_a_token_lives_no_longer_than_its_issuer_may_let_it(claims: dict[str, object], good: bool) -> None:
    found = tokens(max_lifetime=600.0)
    if good:
        assert ask(found, token(**claims))
    else:
        assert refusal(found, token(**claims)) == "token_lifetime"


def test_scopes_come_from_the_key_and_from_the_tokens_scope_claim() -> None:
    assert keyring(scopes=("read", "write")).identify(b"secret", 0.0).scopes == {"read", "write"}
    assert ask(tokens(), token(scope="read write")).scopes == {"read", "write"}
    for odd in (7, None, ["read"], {"read": 1}):
        assert not ask(tokens(), token(scope=odd)).scopes


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["https://issuer", "us", "me"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "scope"]) | st.text()
PARTS = st.builds(
    signed,
    st.just(HEADER) | st.builds(json.dumps, st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64"]), JSON)),
    st.builds(
        lambda odd: json.dumps({"iss": "https://issuer", "aud": "us", "sub": "me", "exp": 1060, **odd}),
        st.dictionaries(NAMES, JSON, max_size=5),
    ),
)


@given(
    st.binary(max_size=200) | PARTS | st.builds(lambda raw, at: raw[:at] + raw[at + 1 :], PARTS, st.integers(0, 300))
)
def test_whatever_comes_is_an_identity_or_a_refusal(raw: bytes) -> None:
    try:
        identity = ask(tokens(subjects="any"), raw)
    except UnknownKey:
        return
    except Denied as denied:
        assert denied.problem.failure.startswith("token_") and denied.problem.status == 401
        return
    assert identity.line.count(b"\r\n") == 1 and b"," not in identity.line and 1000 < identity.expires_at < 1e6
