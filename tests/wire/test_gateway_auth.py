"""Who may pass the gateway, and what the others are told."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from apps.gateway.core import config
from tests.serving import serving
from tests.waiting import until
from tests.wire.gateway import KEY, Gateway, hashed, running

EXPIRED, REVOKED, DISABLED = ("mc_expired__" + "e" * 40, "mc_revoked__" + "r" * 40, "mc_disabled_" + "d" * 40)
ISSUER = "http://issuer.test"


class Keys(ThreadingHTTPServer):
    """An issuer's key set over HTTP."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self.keys: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.asked += 1
                body = json.dumps({"keys": self.keys}).encode()
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *arguments: object) -> None:
                return

        super().__init__(("127.0.0.1", port), Handler)

    def add(self, kid: str, key: Ed25519PrivateKey | RSAPrivateKey, alg: str) -> None:
        algorithm = OKPAlgorithm if isinstance(key, Ed25519PrivateKey) else RSAAlgorithm
        self.keys.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": alg, "use": "sig"})


ED = Ed25519PrivateKey.generate()
RSA = generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found, serving(Keys(found.jwks_port)) as server:
        server.add("ed", ED, "EdDSA")
        url = f"http://127.0.0.1:{found.jwks_port}/jwks.json"
        old = found.document
        found.publish(
            routes=(config.Route("up", "up", "/up", auth=("key", "jwt"), issuers=("test",)), *old.routes[1:]),
            consumers=(
                *old.consumers,
                config.Consumer("off", enabled=False, subjects=("test/off",)),
                config.Consumer("robot", subjects=("test/robot",)),
            ),
            keys=(
                *old.keys,
                config.Key(hashed(EXPIRED), EXPIRED[:11], "tester", expires_at=time.time() - 1),
                config.Key(hashed(REVOKED), REVOKED[:11], "tester", revoked=True),
                config.Key(hashed(DISABLED), DISABLED[:11], "off"),
            ),
            issuers=(config.Issuer("test", ISSUER, "mission-control", ("EdDSA",), url, leeway=0),),
        )
        found.server = server  # type: ignore[attr-defined]
        yield found


def token(
    key: Any = ED, alg: str = "EdDSA", kid: str = "ed", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    now = int(time.time())
    body = {"iss": ISSUER, "aud": "mission-control", "sub": "robot", "iat": now, "exp": now + 60, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=alg, headers={"kid": kid, **(headers or {})})


def bearer(gateway: Gateway, text: str) -> tuple[int, str, dict[str, str]]:
    answer = gateway.get("/up/echo", f"Authorization: Bearer {text}")
    return answer.status, "" if answer.status == 200 else answer.failure, answer.fields


def test_no_credentials_names_what_to_send(gateway: Gateway) -> None:
    answer = gateway.get("/up/echo")
    assert (answer.status, answer.failure) == (401, "credentials_missing")
    assert answer.fields["www-authenticate"].startswith("Bearer")
    assert "X-API-Key" in answer.json()["detail"] and "JWT" in answer.json()["detail"]
    assert gateway.get("/up/echo", "Authorization: Basic dXNlcjpwYXNz").failure == "credentials_missing"


@pytest.mark.parametrize(
    ("key", "status", "failure"),
    [
        ("mc_unknown__" + "u" * 40, 401, "key_unknown"),
        ("", 401, "key_unknown"),
        (EXPIRED, 401, "key_expired"),
        (REVOKED, 401, "key_revoked"),
        (DISABLED, 403, "consumer_disabled"),
    ],
)
def test_a_key_that_does_not_open_says_why(gateway: Gateway, key: str, status: int, failure: str) -> None:
    for _ in range(2):
        answer = gateway.get("/up/echo", f"X-API-Key: {key}")
        assert (answer.status, answer.failure) == (status, failure)


def test_a_key_opens_by_either_field_and_is_not_passed_on(gateway: Gateway) -> None:
    for field in (f"X-API-Key: {KEY}", f"Authorization: Bearer {KEY}"):
        echo = gateway.get("/up/echo", field).json()
        names = dict(echo["fields"])
        assert names["x-consumer"] == "tester" and "authorization" not in names and "x-api-key" not in names


def test_a_key_revoked_while_in_use_stops_with_the_next_revision(gateway: Gateway) -> None:
    key = "mc_shortly__" + "s" * 40
    keys = gateway.document.keys
    gateway.publish(keys=(*keys, config.Key(hashed(key), key[:11], "tester")))
    assert gateway.get("/up/echo", f"X-API-Key: {key}").status == 200
    gateway.publish(keys=(*keys, config.Key(hashed(key), key[:11], "tester", revoked=True)))
    assert gateway.get("/up/echo", f"X-API-Key: {key}").failure == "key_revoked"
    gateway.publish(keys=keys)


def test_a_key_that_expires_while_remembered_stops_on_time(gateway: Gateway) -> None:
    key = "mc_expiring_" + "x" * 40
    keys = gateway.document.keys
    gateway.publish(keys=(*keys, config.Key(hashed(key), key[:11], "tester", expires_at=time.time() + 0.6)))
    assert gateway.get("/up/echo", f"X-API-Key: {key}").status == 200
    until(lambda: gateway.get("/up/echo", f"X-API-Key: {key}").status == 401, 2)
    gateway.publish(keys=keys)


def test_a_good_token_opens_at_the_first_request(gateway: Gateway) -> None:
    answer = gateway.get("/up/echo", f"Authorization: Bearer {token()}")
    assert answer.status == 200
    names = dict(answer.json()["fields"])
    assert names["x-consumer"] == "robot" and "authorization" not in names


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def alg_none() -> str:
    _, body, _ = token().split(".")
    return (
        f"{base64.urlsafe_b64encode(json.dumps({'alg': 'none', 'kid': 'ed'}).encode()).rstrip(b'=').decode()}.{body}."
    )


def signed_with_the_public_key() -> str:
    public = ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return token(public, "HS256")


def tampered() -> str:
    head, _, signature = token().split(".")
    forged = base64.urlsafe_b64encode(
        json.dumps({"iss": ISSUER, "aud": "mission-control", "sub": "admin", "exp": 2**40}).encode()
    )
    return f"{head}.{forged.rstrip(b'=').decode()}.{signature}"


@pytest.mark.parametrize(
    ("make", "failure"),
    [
        (lambda: "not.a.token", "token_malformed"),
        (lambda: "x" * 9000, "token_malformed"),
        (lambda: token(exp=int(time.time()) - 10), "token_expired"),
        (lambda: token(exp=None), "token_malformed"),
        (lambda: token(exp="soon"), "token_malformed"),
        (lambda: token(aud="someone-else"), "token_audience"),
        (lambda: token(aud=None), "token_audience"),
        (lambda: token(iss="http://other.test"), "token_issuer"),
        (lambda: token(nbf=int(time.time()) + 60), "token_not_yet_valid"),
        (lambda: token(sub=None), "token_malformed"),
        (lambda: token(sub="evil\r\nX-Consumer: admin"), "token_subject"),
        (lambda: token(sub="tester"), "token_subject"),
        (lambda: token(sub="tester, root"), "token_subject"),
        (lambda: token(exp=int(time.time()) + 30 * 31_536_000), "token_lifetime"),
        (lambda: token(exp=10**400), "token_malformed"),
        (lambda: token(exp=float("nan")), "token_malformed"),
        (lambda: token(exp=float("inf")), "token_malformed"),
        (lambda: token(nbf=True), "token_malformed"),
        (lambda: token() + "==", "token_malformed"),
        (lambda: f".{token()}", "token_malformed"),
        (lambda: token(deep=nested(300)), "token_malformed"),
        (lambda: "[" * 8000, "token_malformed"),
        (lambda: token(Ed25519PrivateKey.generate()), "token_signature"),
        (lambda: token(RSA, "RS256", "rsa"), "token_signature"),
        (lambda: token(kid="unknown"), "token_signature"),
        (lambda: token(headers={"crit": ["x"], "x": 1}), "token_malformed"),
        (alg_none, "token_signature"),
        (signed_with_the_public_key, "token_signature"),
        (tampered, "token_signature"),
    ],
)
def test_a_token_that_does_not_open_says_why(gateway: Gateway, make: Callable[[], str], failure: str) -> None:
    status, said, fields = bearer(gateway, make())
    assert (status, said) == (401, failure)
    assert 'error="invalid_token"' in fields["www-authenticate"]


def test_keys_named_in_the_tokens_own_header_mean_nothing(gateway: Gateway) -> None:
    mine = Ed25519PrivateKey.generate()
    public = OKPAlgorithm.to_jwk(mine.public_key(), as_dict=True)
    headers = {"jwk": public, "jku": f"http://127.0.0.1:{gateway.jwks_port}/mine", "x5u": "http://127.0.0.1/x"}
    assert bearer(gateway, token(mine, headers=headers))[:2] == (401, "token_signature")


def test_a_new_key_of_the_issuer_is_fetched_when_a_token_names_it(gateway: Gateway) -> None:
    server: Keys = gateway.server  # type: ignore[attr-defined]
    fresh = Ed25519PrivateKey.generate()
    server.add("fresh", fresh, "EdDSA")
    # The set may have been fetched a moment ago for another unknown key: then the next one waits its 5 s.
    until(lambda: bearer(gateway, token(fresh, kid="fresh"))[0] == 200, 8, every=0.2, what="the new key")
    asked = server.asked
    for _ in range(20):
        bearer(gateway, token(kid="never"))
    assert server.asked - asked <= 2  # a flood of unknown keys is not a flood of fetches


def test_a_consumer_switched_off_is_403_by_token_too(gateway: Gateway) -> None:
    assert bearer(gateway, token(sub="off"))[:2] == (403, "consumer_disabled")


def test_a_remembered_token_ends_when_it_expires(gateway: Gateway) -> None:
    brief = token(exp=time.time() + 1.0)
    assert bearer(gateway, brief)[0] == 200
    until(lambda: bearer(gateway, brief)[:2] == (401, "token_expired"), 3)


def test_routes_take_only_the_credentials_they_name(gateway: Gateway) -> None:
    routes = gateway.document.routes
    gateway.publish(
        routes=(
            *routes,
            config.Route("jwt", "up", "/jwt", auth=("jwt",), issuers=("test",)),
            config.Route("key", "up", "/key", auth=("key",)),
        )
    )
    assert gateway.get("/jwt/x", f"X-API-Key: {KEY}").failure == "credentials_missing"
    assert gateway.get("/jwt/x", f"Authorization: Bearer {token()}").status == 200
    assert gateway.get("/key/x", f"Authorization: Bearer {token()}").failure == "credentials_missing"
    assert gateway.get("/key/x", f"X-API-Key: {KEY}").status == 200


def test_a_dropped_connection_is_no_answer_to_an_odd_token(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as wire:
        for odd in (token(exp=10**400), "[" * 8000, "\xff" * 40, token()):
            wire.send("GET /up/echo HTTP/1.1", "Host: gw", f"Authorization: Bearer {odd}")
            status = wire.read().status
        assert status == 200  # the same connection throughout


# -- who may call which route --------------------------------------------------------------------

SHOP, READER = "mc_shopshop_" + "s" * 40, "mc_readread_" + "r" * 40


@pytest.fixture(scope="module")
def ruled(gateway: Gateway) -> Gateway:
    """Routes for some callers, and a second issuer with the same subjects and key ids."""
    old = gateway.document
    url = f"http://127.0.0.1:{gateway.jwks_port}/other.json"
    routes = (
        config.Route("named", "up", "/named", allow=("tester", "@partners")),
        config.Route("scoped", "up", "/scoped", auth=("key", "jwt"), issuers=("test",), scopes=("read",)),
        config.Route("second", "up", "/second", auth=("jwt",), issuers=("other",)),
        config.Route("robots", "up", "/robots", auth=("jwt",), issuers=("test",), allow=("robot",)),
        config.Route("passing", "up", "/passing", auth=(), forward_credentials=True),
        config.Route("both", "up", "/both", auth=("key", "jwt"), issuers=("test",), forward_credentials=True),
    )
    gateway.publish(
        routes=(*old.routes, *routes),
        consumers=(*old.consumers, config.Consumer("shop", groups=("partners",)), config.Consumer("reader")),
        keys=(
            *old.keys,
            config.Key(hashed(SHOP), SHOP[:11], "shop"),
            config.Key(hashed(READER), READER[:11], "reader", scopes=("read",)),
        ),
        issuers=(
            *old.issuers,
            config.Issuer("other", "http://other.test", "mission-control", ("EdDSA",), url, subjects="any"),
        ),
    )
    return gateway


def test_a_key_opens_only_the_routes_that_allow_its_consumer_or_group(ruled: Gateway) -> None:
    assert ruled.get("/named/echo", f"X-API-Key: {KEY}").status == 200
    assert ruled.get("/named/echo", f"X-API-Key: {SHOP}").status == 200
    answer = ruled.get("/named/echo", f"X-API-Key: {READER}")
    assert (answer.status, answer.failure) == (403, "consumer_not_allowed")
    assert "reader" in answer.json()["detail"] and "www-authenticate" not in answer.fields


def test_a_route_asks_for_scopes_of_keys_and_tokens_alike(ruled: Gateway) -> None:
    assert ruled.get("/scoped/echo", f"X-API-Key: {READER}").status == 200
    assert ruled.get("/scoped/echo", f"Authorization: Bearer {token(scope='read write')}").status == 200
    for field in (f"X-API-Key: {KEY}", f"Authorization: Bearer {token(scope='write')}"):
        answer = ruled.get("/scoped/echo", field)
        assert (answer.status, answer.failure) == (403, "insufficient_scope")
        assert 'error="insufficient_scope", scope="read"' in answer.fields["www-authenticate"]


def test_a_consumer_taken_off_a_route_is_refused_with_the_next_revision(ruled: Gateway) -> None:
    routes = ruled.document.routes
    changed = tuple(
        msgspec.structs.replace(route, allow=("tester",)) if route.name == "named" else route for route in routes
    )
    ruled.publish(routes=changed)
    assert ruled.get("/named/echo", f"X-API-Key: {SHOP}").failure == "consumer_not_allowed"
    ruled.publish(routes=routes)
    assert ruled.get("/named/echo", f"X-API-Key: {SHOP}").status == 200


def test_a_token_opens_only_the_routes_that_name_its_issuer_and_speaks_in_its_namespace(ruled: Gateway) -> None:
    theirs = token(iss="http://other.test", sub="tester")
    answer = ruled.get("/second/echo", f"Authorization: Bearer {theirs}")
    assert dict(answer.json()["fields"])["x-consumer"] == "other/tester"
    # Proven a moment ago, and still worth nothing elsewhere; nor is the first issuer's where the second's counts.
    for path, bearer in (("/robots", theirs), ("/scoped", theirs), ("/second", token())):
        answer = ruled.get(f"{path}/echo", f"Authorization: Bearer {bearer}")
        assert (answer.status, answer.failure) == (401, "token_issuer")
    assert ruled.get("/robots/echo", f"Authorization: Bearer {token()}").status == 200


@pytest.mark.parametrize("path", ["/up", "/open"])
def test_a_service_sees_no_credentials(ruled: Gateway, path: str) -> None:
    for field in (f"X-API-Key: {KEY}", f"X-API-Key: {KEY}\r\nAuthorization: Basic dXNlcjpwYXNz"):
        names = dict(ruled.get(f"{path}/echo", field).json()["fields"])
        assert not {"authorization", "x-api-key"} & names.keys()


def test_a_route_may_send_credentials_on_but_never_a_key_of_ours(ruled: Gateway) -> None:
    def seen(path: str, *fields: str) -> dict[str, str]:
        return dict(ruled.get(f"{path}/echo", *fields).json()["fields"])

    names = seen("/passing", "Authorization: Basic dXNlcjpwYXNz", "X-API-Key: theirs")
    assert (names["authorization"], names["x-api-key"]) == ("Basic dXNlcjpwYXNz", "theirs")
    names = seen("/passing", f"Authorization: Bearer {KEY}", f"X-API-Key: {KEY}")
    assert not {"authorization", "x-api-key", "x-consumer"} & names.keys()
    mine = token()
    names = seen("/both", f"Authorization: Bearer {mine}")
    assert names["authorization"] == f"Bearer {mine}" and names["x-consumer"] == "robot"


# -- control's cookies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        (["Cookie: a=1; mc_session=secret; b=2; mc_csrf=token"], ["a=1; b=2"]),
        (["Cookie: mc_session=secret"], []),
        (["COOKIE: __Host-mc_session=secret; a=1", "cookie: mc_device=d; b=2"], ["a=1", "b=2"]),
        (["Cookie: a=1; b=mc_session"], ["a=1; b=mc_session"]),
        (["Cookie_: mc_session=x", "X-Cookie: mc_session=x"], []),
    ],
)
def test_a_session_of_the_pages_reaches_no_service(gateway: Gateway, sent: list[str], arrives: list[str]) -> None:
    for path, key in (("/open/echo", []), ("/up/echo", [f"X-API-Key: {KEY}"])):
        fields = gateway.get(path, *sent, *key).json()["fields"]
        assert [value for name, value in fields if name == "cookie"] == arrives


def test_a_service_can_not_set_the_session_of_the_pages(gateway: Gateway) -> None:
    theirs = [
        "a=1; Path=/",
        "mc_session=evil; Path=/",
        "=mc_csrf=evil",
        "__Host-mc_session=evil; Secure; Path=/",
        "b=2",
    ]
    lines = "".join(f"Set-Cookie: {each}\r\n" for each in theirs)
    answer = (
        f"HTTP/1.1 103 Early Hints\r\n{lines}\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nset-cookie: mc_device=x\r\n"
    )
    (gateway.folder / "one.answer").write_bytes(f"{answer}{lines}\r\nok".encode())
    with contextlib.closing(gateway.connect()) as wire:
        wire.send("GET /open/raw HTTP/1.1", "Host: gw")
        seen = b""
        for expected in (103, 200):
            assert wire.read().status == expected
            seen += wire.raw_head
    assert b"mc_" not in seen and seen.count(b"a=1; Path=/") == 2 and seen.count(b"b=2") == 2
