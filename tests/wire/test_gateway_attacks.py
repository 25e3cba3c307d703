"""Ways round the gateway's authentication, tried on a running one from outside: none may lead anywhere."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator

import msgspec
import pytest
from jwt.algorithms import RSAAlgorithm

from apps.gateway.core import config
from tests.serving import serving
from tests.waiting import until
from tests.wire.gateway import KEY, Answer, Gateway, hashed, running
from tests.wire.test_gateway_auth import ED, ISSUER, RSA, Keys, token

ROOT_KEY = "mc_rootroot_" + "r" * 40


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    """Two workers; under a public route a few that are not, as an operator would carve them out."""
    with running(tmp_path_factory.mktemp("gateway"), redis_process, workers=2) as found:
        old = found.document
        url = f"http://127.0.0.1:{found.jwks_port}/jwks.json"
        found.publish(
            services=(*old.services, config.Service("empty")),
            routes=(
                *old.routes,
                config.Route("inner", "up", "/open/echo/inner", allow=("root",), strip_prefix=False),
                config.Route("at", "up", "/open/echo/@me", allow=("root",)),
                config.Route("leaf", "up", "/open/echo/leaf", match="exact", allow=("root",)),
                config.Route("capital", "up", "/open/echo/Capital", auth=()),
                config.Route("passing", "up", "/passing", auth=(), forward_credentials=True),
                config.Route("empty", "empty", "/empty", allow=("root",)),
                config.Route("closed", "up", "/open/echo/closed", enabled=False),
                config.Route("tokens", "up", "/tokens", auth=("jwt",), issuers=("test",)),
            ),
            consumers=(
                *old.consumers,
                config.Consumer("root"),
                config.Consumer("robot", subjects=("test/robot",)),
                config.Consumer("sheep", groups=("root",)),
            ),
            keys=(
                *old.keys,
                config.Key(hashed(ROOT_KEY), ROOT_KEY[:11], "root"),
                config.Key(hashed("mc_sheep"), "mc_sheep", "sheep"),
            ),
            issuers=(config.Issuer("test", ISSUER, "mission-control", ("EdDSA",), url, leeway=0),),
        )
        yield found


@pytest.fixture(scope="module")
def keys(gateway: Gateway) -> Iterator[Keys]:
    """The issuer pins EdDSA, and publishes other keys for other uses."""
    with serving(Keys(gateway.jwks_port)) as server:
        server.add("ed", ED, "EdDSA")
        server.add("rsa", RSA, "RS256")
        secret = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
        server.keys.append({"kty": "oct", "k": secret, "kid": "oct", "alg": "HS256", "use": "sig"})
        opened = f"Authorization: Bearer {token()}"
        until(lambda: all(gateway.get("/tokens/echo", opened).status == 200 for _ in range(9)), 20, what="its keys")
        yield server


def fields_seen(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == 200, answer
    return [(name, value) for name, value in answer.json()["fields"]]


def identities(fields: list[tuple[str, str]]) -> list[str]:
    """What any server could take for our identity: CGI maps all but letters and digits to one sign."""
    return [value for name, value in fields if re.sub("[^a-z0-9]", "-", name.lower()).startswith("x-consumer")]


# -- who it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        "X-Consumer: root",
        "x-CONSUMER: root",
        "X_Consumer: root",
        "X.Consumer: root",
        "X!Consumer: root",
        "X~Consumer: root",
        "X-Consumer-Id: root",
        "X-Consumer-Username: root",
        "X-Consumer-Groups: root",
        "X_Consumer.Username: root",
        "X-Consumer: root\r\nX-Consumer: root",
        "Connection: X-Consumer\r\nX-Consumer: root",
        "Connection: close, x-consumer, x_consumer",
    ],
)
def test_nobody_but_the_gateway_says_who_calls(gateway: Gateway, field: str) -> None:
    assert identities(fields_seen(gateway.get("/open/echo", field))) == []
    assert identities(fields_seen(gateway.get("/up/echo", field, f"X-API-Key: {KEY}"))) == ["tester"]


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /open/echo HTTP/1.1\r\nHost: gw\r\nX-Consumer : root\r\n\r\n",
        "GET /open/echo HTTP/1.1\r\nHost: gw\r\nA: b\r\n X-Consumer: root\r\n\r\n",
        "GET /open/echo HTTP/1.1\r\nHost: gw\r\nA: b\nX-Consumer: root\r\n\r\n",
        "GET /open/echo HTTP/1.1\r\nHost: gw\r\nA: b\rX-Consumer: root\r\n\r\n",
        "GET /open/echo HTTP/1.1\r\nHost: gw\r\nA: b\0\r\nX-Consumer: root\r\n\r\n",
        "GET /open/echo HTTP/1.1\r\nHost: gw\r\nX-Consumer\r\n: root\r\n\r\n",
        "POST /open/echo HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\nTrailer: X-Consumer\r\n\r\n"
        "0\r\nX-Consumer: root\r\n\r\n",
        "POST /open/echo HTTP/1.1\r\nHost: gw\r\nContent_Length: 5\r\nContent-Length: 2\r\n\r\nok",
        "POST /open/echo HTTP/1.1\r\nHost: gw\r\nTransfer.Encoding: chunked\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_an_identity_hides_in_no_odd_writing(gateway: Gateway, request_text: str) -> None:
    with contextlib.closing(gateway.connect()) as wire:
        wire.raw(request_text.encode("latin-1"))
        answer = wire.read()
    if answer.status != 400:
        fields = fields_seen(answer)
        assert identities(fields) == [] and "root" not in str(fields)
        names = [re.sub("[^a-z0-9]", "-", name) for name, _ in fields]
        assert names.count("content-length") + names.count("transfer-encoding") <= 1


@pytest.mark.parametrize(
    "field",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "X-Original-URL: /secret",
        "X_Original_URL: /secret",
        "X-Original-URI: /secret",
        "X-Rewrite-URL: /secret",
        "X-Forwarded-Prefix: /secret",
        "X-Forwarded-Uri: /secret",
        "X-Forwarded-Path: /secret",
        "X-Forwarded-Method: DELETE",
        "X-Forwarded-User: root",
        "X-Forwarded-Ssl: on",
    ],
)
def test_no_field_makes_a_service_do_another_thing_than_was_judged(gateway: Gateway, field: str) -> None:
    """The method and path that the route was chosen by are the ones that reach the service."""
    seen = fields_seen(gateway.get("/get/echo", field))
    assert not {"DELETE", "/secret", "root", "on"} & {value for _, value in seen}


# -- which route ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/open/echo/inner",
        "/open/echo/inner/",
        "/open/echo/inner/x",
        "//open/echo//inner",
        "/open/./echo/./inner/",
        "/open/x/../echo/inner",
        "/open/echo/%69nner",
        "/open/echo/inn%65r/x",
        "/up/../open/echo/inner",
        "/open/echo/%2e%2e/echo/inner",
        "/open/echo/@me",
        "/open/echo/closed",
        "/open/echo/closed;x/y",
        "/open/echo/CLOSED",
        "/open/echo/leaf",
        # Servers that cut parameters off each segment (servlets, RFC 2396) or decode all there is:
        "/open/echo/inner;x",
        "/open/echo/inner;x=1/y",
        "/open/echo;a/inner",
        "/open;a/echo;b/inner;c",
        "/;a/open/echo/inner",
        "/open/echo/;a/inner",
        "/open/echo/%40me",
        "/open/echo/%40m%65/x",
        "/open/echo/inner%3Bx",
        "/open/echo/leaf;x",
        "/open/echo/x/..%3By/inner",
        "/open/echo/x/..;y/inner",
        "/open/echo/x/%2e%2e;y/inner",
        "/open/echo/x%2f..%2finner",
        "/open/echo/x%5c..%5cinner",
        "/open/echo/x\\..\\inner",
        # Servers to which case means nothing (ASP.NET, Express, IIS):
        "/open/echo/INNER",
        "/open/echo/Inner/x",
        "/open/echo/@ME",
        "/open/echo/LEAF",
        "/open/echo/%49NNER;x",
        "/open/echo/inner\t",
        "/open/echo/inner%00",
        "/open/echo/inner#",
        "http://other.example/open/echo/inner",
        "http://gw:80//open/echo/inner;x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_no_writing_of_a_path_leads_round_the_route_that_guards_it(gateway: Gateway, path: str, method: str) -> None:
    answer = gateway.get(path, method=method)
    assert answer.status in {400, 401, 404} and "x-upstream" not in answer.fields, answer


@pytest.mark.parametrize(
    "path",
    [
        "/open/echo/innermost",
        "/open/echo/x;a=1",
        "/open/echo/caf%C3%A9%20x",
        "/open/echo/A/B/C",
        "/open/echo/Capital",
        "/open/echo/Capital/X;y",
        "/open/echo/%40you",
        "/up/ECHO;X",
    ],
)
def test_a_path_that_is_plainly_one_routes_passes(gateway: Gateway, path: str) -> None:
    assert gateway.get(path, f"X-API-Key: {KEY}").status in {200, 404}
    assert gateway.get(path, f"X-API-Key: {KEY}", method="HEAD").status in {200, 404}


def test_a_guarded_route_still_opens_to_who_may(gateway: Gateway) -> None:
    answer = gateway.get("/open/echo/@me", f"X-API-Key: {ROOT_KEY}")
    assert answer.status in {200, 404} and answer.fields.get("x-upstream") == "one"


def test_two_hosts_and_a_foreign_authority_are_no_way_in(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as wire:
        wire.send("GET /open/echo HTTP/1.1", "Host: gw", "Host: admin")
        assert wire.read().status == 400
    for target in ("http://root@gw/up/echo", "http://gw\\@admin/up/echo", "ftp://gw/up/echo", "gw/up/echo"):
        assert gateway.get(target).status in {400, 401}


def test_a_route_whose_service_has_no_instance_asks_who_calls_first(gateway: Gateway) -> None:
    assert gateway.get("/empty/x").status == 401
    assert gateway.get("/empty/x", f"X-API-Key: {KEY}").status == 403
    assert gateway.get("/empty/x", f"X-API-Key: {ROOT_KEY}").status == 503


def test_a_group_is_no_consumer_of_that_name(gateway: Gateway) -> None:
    answer = gateway.get("/open/echo/inner", "X-API-Key: mc_sheep")
    assert (answer.status, answer.failure) == (403, "consumer_not_allowed")


# -- what proves it ------------------------------------------------------------------------------


def by_hand(header: dict[str, object], sign: str) -> str:
    """A token with a header of its own beside its true signature."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "mission-control", "sub": "robot", "iat": now, "exp": now + 60}
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, claims)]
    signed = b".".join(parts)
    rsa = RSAAlgorithm(RSAAlgorithm.SHA256)
    made = {"rsa": lambda: rsa.sign(signed, RSA), "ed": lambda: ED.sign(signed), "none": lambda: b""}[sign]()
    return (signed + b"." + base64.urlsafe_b64encode(made).rstrip(b"=")).decode()


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ({"alg": "EdDSA", "kid": "rsa"}, "rsa"),
        ({"alg": "RS256", "kid": "rsa"}, "rsa"),
        ({"alg": "EdDSA", "kid": "rsa"}, "ed"),
        ({"alg": "eddsa", "kid": "ed"}, "ed"),
        ({"alg": "none", "kid": "ed"}, "none"),
        ({"alg": "EdDSA", "kid": "ed"}, "none"),
        ({"alg": ["EdDSA"], "kid": "ed"}, "ed"),
        ({"alg": "EdDSA", "kid": "oct"}, "ed"),
        ({"alg": "HS256", "kid": "oct"}, "none"),
        ({"alg": "EdDSA", "kid": ["ed"]}, "ed"),
        ({"alg": "EdDSA", "kid": ""}, "ed"),
        ({"alg": "EdDSA"}, "ed"),
        ({"alg": "EdDSA", "kid": "../../ed"}, "ed"),
        ({"alg": "EdDSA", "kid": "ed", "b64": False}, "ed"),
    ],
)
def test_only_the_pinned_algorithm_by_the_named_key_proves_a_caller(
    gateway: Gateway, keys: Keys, header: dict[str, object], sign: str
) -> None:
    assert gateway.get("/tokens/echo", f"Authorization: Bearer {token()}").status == 200
    answer = gateway.get("/tokens/echo", f"Authorization: Bearer {by_hand(header, sign)}")
    assert answer.status == 401, answer


@pytest.mark.parametrize(
    "field",
    [
        f"Authorization: Bearer\t{KEY}",
        f"Authorization: Token {KEY}",
        f"Authorization: {KEY}",
        f"Authorization: Bearer x {KEY}",
        f"X-API-Key: {KEY}",
    ],
)
def test_a_key_of_ours_goes_to_no_service_however_it_is_sent(gateway: Gateway, field: str) -> None:
    answer = gateway.get("/passing/echo", field)
    assert answer.status == 400 or KEY not in str(fields_seen(answer))


def test_a_revoked_key_opens_at_no_worker(gateway: Gateway) -> None:
    key = "mc_passing__" + "p" * 40
    kept = gateway.document.keys
    entry = config.Key(hashed(key), key[:11], "tester")
    gateway.publish(keys=(*kept, entry))
    until(lambda: all(gateway.get("/up/echo", f"X-API-Key: {key}").status == 200 for _ in range(20)), 5, what="open")
    gateway.publish(keys=kept)
    assert {gateway.get("/up/echo", f"X-API-Key: {key}").status for _ in range(40)} == {401}


# -- control's cookies ---------------------------------------------------------------------------

SPACES = ["\xa0", "\x85", "\t", " ", "\x0b", "\x0c", "\x1c", "\x1f", "=\xa0", " = "]
"""What a reader in Python takes for white space round a name, and what a browser sends before a nameless cookie."""


@pytest.mark.parametrize("space", SPACES)
def test_no_space_makes_a_services_cookie_the_session_of_the_pages(gateway: Gateway, space: str) -> None:
    lines = f"Set-Cookie: {space}mc_session=evil\r\nSet-Cookie: mc_session{space.strip('=')}=evil\r\n"
    (gateway.folder / "one.answer").write_bytes(
        f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\nok".encode("latin-1")
    )
    with contextlib.closing(gateway.connect()) as wire:
        wire.send("GET /open/raw HTTP/1.1", "Host: gw")
        wire.read()
        assert b"mc_session" not in wire.raw_head


@pytest.mark.parametrize(
    "field",
    [
        "Cookie: $Version=1; mc_session=secret; $Path=/",
        'Cookie: a="x; mc_session=secret"',
        "Cookie: a=1;mc_session = secret",
        "Cookie: a=1;\xa0mc_session=secret",
        "Cookie: a=1\r\nCookie: mc_session=secret",
        "Cookie_: mc_session=secret",
        "COOKIE:mc_session=secret",
    ],
)
def test_a_session_is_taken_out_however_cookies_are_written(gateway: Gateway, field: str) -> None:
    answer = gateway.get("/open/echo", field)
    if answer.status != 400:
        assert not [v for n, v in fields_seen(answer) if n == "cookie" and "secret" in v]


@pytest.mark.parametrize(
    "head",
    [
        "Set-Cookie : mc_session=evil",
        "A: b\r\n Set-Cookie: mc_session=evil",
        "A: b\rSet-Cookie: mc_session=evil",
        "A: b\nSet-Cookie: mc_session=evil",
        "A: b\0\r\nSet-Cookie: mc_session=evil",
        "Set_Cookie: mc_session=evil",
        "Set-Cookie:mc_session=evil",
        "Set-Cookie: a=1\r\n\tmc_session=evil",
        "SET-COOKIE: mc_session\t=\tevil;Path=/",
    ],
)
def test_a_session_hides_in_no_odd_writing_of_an_answer(gateway: Gateway, head: str) -> None:
    """What a browser might read as a Set-Cookie line: after an end of line of any kind, its name before a colon."""
    (gateway.folder / "one.answer").write_bytes(
        f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{head}\r\n\r\nok".encode("latin-1")
    )
    with contextlib.closing(gateway.connect()) as wire:
        wire.send("GET /open/raw HTTP/1.1", "Host: gw")
        wire.read()
        lines = re.split(rb"[\r\n\0]+", wire.raw_head)
    assert not [line for line in lines if re.match(rb"set.cookie\s*:.*mc_session", line.strip(), re.I)]


def test_a_token_ends_with_its_consumer_its_mapping_or_its_issuer(gateway: Gateway, keys: Keys) -> None:
    """However often it was believed before."""
    field = f"Authorization: Bearer {token()}"
    kept = gateway.document
    consumers = tuple(each for each in kept.consumers if each.name != "robot")
    off = tuple(msgspec.structs.replace(each, enabled=False) for each in kept.issuers)
    unmapped = (*consumers, config.Consumer("robot"))
    foreign = tuple(msgspec.structs.replace(each, issuer="http://moved.test") for each in kept.issuers)
    for changes, failure in (
        ({"consumers": consumers}, "token_subject"),
        ({"consumers": unmapped}, "token_subject"),
        ({"issuers": off}, "token_issuer"),
        ({"issuers": foreign}, "token_issuer"),
    ):
        assert {gateway.get("/tokens/echo", field).status for _ in range(10)} == {200}
        gateway.publish(**changes)
        assert {gateway.get("/tokens/echo", field).failure for _ in range(20)} == {failure}
        gateway.publish(consumers=kept.consumers, issuers=kept.issuers)
        until(lambda: gateway.get("/tokens/echo", field).status == 200, 20, what="its keys again")


@pytest.mark.parametrize(
    "fields",
    [
        [f"X-API-Key: {ROOT_KEY}", f"X-API-Key: {KEY}"],
        [f"X-API-Key: {KEY}", f"Authorization: Bearer {ROOT_KEY}"],
        [f"X-API-Key: {KEY}", f"X_API_Key: {ROOT_KEY}"],
        [f"X-API-Key: {KEY},{ROOT_KEY}"],
        [f"X-API-Key: {KEY}", "X-Consumer: root", "Connection: X-API-Key, X-Consumer"],
        [f"X-API-Key: {KEY}\t", f"Authorization: Basic {ROOT_KEY}"],
        ["X-API-Key: ", f"Authorization: Bearer {ROOT_KEY}x"],
        [f"X-API-Key: {ROOT_KEY[:-1]}"],
        [f"X-API-Key: {ROOT_KEY.upper()}"],
        [f"Cookie: X-API-Key={ROOT_KEY}"],
        ["X-API-Key: " + hashed(ROOT_KEY)],
        ["X-API-Key: *"],
        ["X-API-Key: @root"],
    ],
)
def test_no_mix_of_credentials_opens_more_than_one_of_them(gateway: Gateway, fields: list[str]) -> None:
    answer = gateway.get("/open/echo/inner", *fields)
    assert answer.status in {400, 401, 403}, answer
