"""One request more, hidden in another: what a client may write, held to what a strict server makes of it behind us.

Whatever is accepted reaches the instance, which reads by h11, as exactly that one request; whatever could be read
in two ways is refused, the connection ends, and nothing of it reaches an instance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from apps.gateway.core import config
from tests.wire.gateway import KEY, Gateway, Wire, running
from tests.wire.puppets import Seen, Strict

SMUGGLED = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /open/x HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /open/x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
TWO = b"2\r\nok\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[Strict]:
    with contextlib.closing(Strict()) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str, strict: Strict) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        quiet = config.Breaker(override="closed")
        found.publish(services=found.service(instances=(strict.instance,), breaker=quiet))
        yield found
        assert "Traceback" not in found.logs() and "fault" not in found.logs()


@pytest.fixture
def client(gateway: Gateway, strict: Strict) -> Iterator[Wire]:
    strict.seen.clear()
    strict.faults.clear()
    with contextlib.closing(gateway.connect()) as found:
        yield found


def one(strict: Strict) -> Seen:
    """The one request that the instance has seen, and nothing that it could not read."""
    assert strict.faults == [] and [each.whole for each in strict.seen] == [True], strict.seen
    return strict.seen[0]


# -- what is refused -------------------------------------------------------------------------------------


def with_length(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\n"


def with_coding(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + TWO


def with_line(line: bytes) -> bytes:
    """Beside a length of nought, so that whoever takes the line for something sees another request."""
    return POST + b"Content-Length: 0\r\n" + line + b"\r\n\r\n"


def in_chunks(data: bytes) -> bytes:
    return CHUNKED + b"\r\n" + data


LENGTHS = [
    *(b"+2", b"-2", b"2,2", b"2, 3", b"0x2", b"2_0", b"2 2", b"2;", b'"2"', b"2.0", b"", b"\xb2", b"9" * 19, b"two"),
    *(b"2\r\nContent-Length: 2", b"2\r\nContent-Length: 30", b"2\r\nTransfer-Encoding: chunked", b"\x0b2", b"2\x00"),
    *(b"2\r\n 0", b"2\r\n\t", b"2\rX: y", b"2\nX: y"),
]
CODINGS = [
    *(b"xchunked", b"chunkedx", b"chunked;", b'"chunked"', b"chunked, identity", b"identity, chunked", b"chunked,"),
    *(b",chunked", b"chunked chunked", b"chunked\x0b", b"\x0cchunked", b"chunked\xa0", b"chunked\x00", b"\xefchunked"),
    *(b"chunked\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: x", b"x\r\nTransfer-Encoding: chunked"),
    *(
        b"\r\n chunked",
        b"\r\n\tchunked",
        b"chunked\r\n ",
        b"\nchunked",
        b"chunked\nX: y",
        b"\rchunked",
        b"gzip, chunked",
    ),
    *(
        b"gzip",
        b"",
        b"chun\tked",
        b"c\x68unked, CHUNKED",
        b"trailers",
        b"chunked; q=0.5",
        b"chunked\r\nContent-Length: 2",
    ),
]
LINES = [
    *(b"Transfer-Encoding : chunked", b" Transfer-Encoding: chunked", b"Transfer-Encoding\t: chunked", b": x", b"x"),
    *(b"Transfer-Encoding\x00: chunked", b"Transfer-Encoding\x0b: chunked", b"Transfer\xa0Encoding: chunked"),
    *(b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"X\r\nTransfer-Encoding: chunked"),
    *(
        b"X: y\r\n\rTransfer-Encoding: chunked",
        b"X: \x00\r\nA: b",
        b"\x00: x",
        b"\xff: x",
        b"(x): y",
        b"X y: z",
        b"\tX: y",
    ),
    *(
        b"X: y\r\r\nA: b",
        b"X\r: y",
        b"Host: b",
        b"host: a",
        b"X: \x7f",
        b"X: \x1b[0m",
        b"X:\x08y",
        b"\xc4\xb0: x",
        b"=",
    ),
]
CHUNKS = [
    *(b"+2\r\nok\r\n0\r\n\r\n", b"-2\r\nok\r\n0\r\n\r\n", b"0x2\r\nok\r\n0\r\n\r\n", b"2_0\r\nok\r\n0\r\n\r\n"),
    *(b" 2\r\nok\r\n0\r\n\r\n", b"2 \r\nok\r\n0\r\n\r\n", b"2\t\r\nok\r\n0\r\n\r\n", b"\r\n2\r\nok\r\n0\r\n\r\n"),
    *(
        b"2\nok\r\n0\r\n\r\n",
        b"2\rok\r\n0\r\n\r\n",
        b"2\r\nok\n0\r\n\r\n",
        b"2\r\nok0\r\n\r\n",
        b"2\r\nokay\r\n0\r\n\r\n",
    ),
    *(b"2\r\nok\r\n0\n\r\n", b"2\r\nok\r\n0\r\nX y: z\r\n\r\n", b"2\r\nok\r\n0\r\nX: y\n\r\n", b"2\r\nok\r\n0\r\n\n"),
    *(
        b"1" * 17 + b"\r\nok",
        b"0" * 17 + b"\r\n\r\n",
        b"0" * 60_000,
        b"G\r\n",
        b"\r\n",
        b";\r\n",
        b";x\r\n",
        b"2 x\r\nok",
    ),
    *(
        b'2;a="\n"\r\nok\r\n0\r\n\r\n',
        b'2;a="\r\n"\r\nok\r\n0\r\n\r\n',
        b"2;a\x00\r\nok\r\n0\r\n\r\n",
        b"2;a\rb\r\nok\r\n",
    ),
    *(
        b"2\r\nok\r\n0\r\n X: folded\r\n\r\n",
        b"2\r\nok\r\n0\r\nX: y\r\n folded\r\n\r\n",
        b"2\r\nok\r\n0\r\n: x\r\n\r\n",
    ),
    *(
        b"2\r\nok\r\n0\r\n\xff: x\r\n\r\n",
        b"2\r\nok\r\n0\r\nX\r\n\r\n",
        b"2\r\nok\r\n0\r\nX : y\r\n\r\n",
        b"\x002\r\nok\r\n",
    ),
]
STARTS = [
    *(b"GET /open/x\r\n\r\n", b"GET\t/open/x HTTP/1.1\r\nHost: a\r\n\r\n", b"GET  /open/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    *(b"GET /open/x HTTP/1.1 \r\nHost: a\r\n\r\n", b"GET /open/x HTTP/1.1\nHost: a\n\n", b" GET / HTTP/1.1\r\n\r\n"),
    *(
        b"GET /open/x y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open/\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00" + GET + b"\r\n",
    ),
    *(
        b"GET /open/\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\n Host: a\r\n\r\n",
        b"\xef\xbb\xbf" + GET + b"\r\n",
    ),
    *(
        b"GET /open/x HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\nHost: a,b\r\n\r\n",
        b"GET /open/x HTTP/01.1\r\n\r\n",
    ),
    *(
        b"GET /open/x HTTP/1.10\r\nHost: a\r\n\r\n",
        b"GET /open/x http/1.1\r\nHost: a\r\n\r\n",
        b"G(T /open/x HTTP/1.1\r\n\r\n",
    ),
    *(b"GET http://u@a/open/x HTTP/1.1\r\nHost: a\r\n\r\n", b"GET http://a,b/open/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    *(
        b"GET //a/open/../../up HTTP/1.1\r\nHost: a@b\r\n\r\n",
        b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"? ? ?\r\n\r\n",
    ),
    *(
        b"GET file:///open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
]
OTHERS = [
    *(b"get", b"Get", b"post", b"head", b"trace", b"Trace", b"options", b"pUT"),
    *(b"CONNECT", b"connect", b"Connect"),
]
PRI = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
REFUSED = [
    *map(with_length, LENGTHS),
    *map(with_coding, CODINGS),
    *map(with_line, LINES),
    *map(in_chunks, CHUNKS),
    *STARTS,
    *(method + b" /open/x HTTP/1.1\r\nHost: a\r\n\r\n" for method in OTHERS),
    *(method + b" /-/health HTTP/1.1\r\nHost: a\r\n\r\n" for method in OTHERS),
    b"POST /open/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + TWO,
    b"POST /open/x HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + TWO,
    PRI,
]


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data[-60:])[2:-1])
@pytest.mark.parametrize("ahead", [b"", GET + b"\r\n"], ids=["first", "second"])
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_served(
    strict: Strict, client: Wire, data: bytes, ahead: bytes
) -> None:
    client.raw(ahead + data + SMUGGLED)
    if ahead:
        assert client.read().status == 200
    answer = client.read()
    assert answer.status in {400, 431, 501, 505} and answer.fields["connection"] == "close"
    assert client.closed() and client.buffer == b""
    assert not [each for each in strict.seen if "smuggled" in each.target]
    assert sum(each.whole for each in strict.seen) == bool(ahead) and strict.faults == []


# -- what is accepted ------------------------------------------------------------------------------------

ACCEPTED = [
    (b"\r\n\r\n\r\n" + GET + b"\r\n", b""),
    (GET + b"Content-Length: 0\r\n\r\n", b""),
    (GET + b"Content-Length: 40\r\n\r\n" + SMUGGLED[:40], SMUGGLED[:40]),
    (POST + b"Content-Length: 000040\r\n\r\n" + SMUGGLED[:40], SMUGGLED[:40]),
    (POST + b"content-length:\t40 \t\r\n\r\n" + SMUGGLED[:40], SMUGGLED[:40]),
    (POST + b"Content-Length: 2\r\nContent_Length: 40\r\nContent.Length: 50\r\n\r\nok", b"ok"),
    (POST + b"Content-Length: 2\r\nTransfer_Encoding: chunked\r\nTransfer.Encoding: chunked\r\n\r\nok", b"ok"),
    (POST + b"Content-Length: 2\r\nConnection: Content-Length, Host, Transfer-Encoding\r\n\r\nok", b"ok"),
    (POST + b"Content-Length: 2\r\nTE: trailers, chunked\r\nTrailer: Content-Length\r\n\r\nok", b"ok"),
    (POST + b"Content-Length: 2\r\nConnection: close, x\r\nProxy-Connection: keep-alive\r\n\r\nok", b"ok"),
    (POST + b"TRANSFER-ENCODING:chUNKed \r\n\r\n" + TWO, b"ok"),
    (CHUNKED + b"\r\n0000000000000002\r\nok\r\n000\r\n\r\n", b"ok"),
    (CHUNKED + b'\r\n2 ; a="b;c" ;x\r\nok\r\n0;last\r\nX: y\r\n\r\n', b"ok"),
    (CHUNKED + b"\r\n2\r\nok\r\n0\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n", b"ok"),
    (CHUNKED + b"\r\n2\r\nok\r\n0\r\nX-Consumer: root\r\nX-API-Key: x\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n", b"ok"),
    (CHUNKED + b"Connection: Transfer-Encoding\r\n\r\n" + TWO, b"ok"),
    (CHUNKED + b"\r\n2a\r\n" + SMUGGLED[:40] + b"\r\n\r\n0\r\n\r\n", SMUGGLED[:40] + b"\r\n"),
    (
        POST
        + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: A\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
    ),
    (POST + b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n" + TWO, b"ok"),
    (b"POST http://a/open/x HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    (b"POST /open/x HTTP/1.0\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", b"ok"),
    (b"BREW /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    (b"PRI /open/x HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    (b"DELETE /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n" + SMUGGLED[:40], SMUGGLED[:40]),
    (b"OPTIONS /open/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + TWO, b"ok"),
]


@pytest.mark.parametrize(("data", "body"), ACCEPTED, ids=lambda data: repr(data[-60:])[2:-1])
@pytest.mark.parametrize("pieces", [1, 3, 0], ids=["whole", "in three", "by bytes"])
def test_what_is_accepted_is_that_one_request_to_the_instance_too(
    gateway: Gateway, strict: Strict, client: Wire, data: bytes, body: bytes, pieces: int
) -> None:
    size = len(data) // pieces + 1 if pieces else 1
    client.sock.setsockopt(6, 1, 1)
    for at in range(0, len(data), size):
        client.raw(data[at : at + size])
    assert client.read().json()["body"].encode() == body
    seen = one(strict)
    assert (seen.target, seen.body) == ("/x", body)
    names = [name for name, _ in seen.fields]
    assert names.count("content-length") + names.count("transfer-encoding") <= 1 and names.count("host") == 1
    assert not {"te", "trailer", "upgrade", "connection", "http2-settings", "x-consumer", "x-api-key"} & set(names)
    assert ("x-forwarded-for", "127.0.0.1") in seen.fields
    if b"close" not in data:
        strict.seen.clear()
        client.raw(GET.replace(b"/x", b"/after") + b"\r\n")
        assert client.read().json()["url"] == "/after"
        assert one(strict).target == "/after"


# -- bodies that are announced, and asked for or not (RFC 9110 section 10.1.1) -----------------------------


@pytest.mark.parametrize("framing", [b"Content-Length: 42\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("path", [b"/up/x", b"/nowhere", b"/-/health", b"/get/x"])
def test_a_body_that_was_not_asked_for_is_no_request(strict: Strict, client: Wire, framing: bytes, path: bytes) -> None:
    """The client was told no before it sent it, and may send it or the next request: nobody knows which."""
    client.raw(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + b"\r\n")
    answer = client.read()
    assert answer.status in {200, 401, 404, 405} and answer.fields["connection"] == "close"
    client.raw(SMUGGLED)
    assert client.closed() and strict.seen == []


@pytest.mark.parametrize("expect", [b"100-Continue", b"100-continue", b" 100-continue\t"])
def test_a_body_that_was_asked_for_goes_up_as_one(strict: Strict, client: Wire, expect: bytes) -> None:
    client.raw(CHUNKED + b"Expect: " + expect + b"\r\n\r\n")
    assert client.read().status == 100
    client.raw(TWO + SMUGGLED)
    assert client.read().json()["body"] == "ok"
    assert client.read().json()["url"] == "/smuggled", "pipelined, and its client's own"
    assert "expect" not in dict(strict.seen[0].fields)


@pytest.mark.parametrize("expect", [b"x 100-continue", b"100-continue, x", b"x", b"100-continue;q=1", b""])
def test_another_expectation_is_417_and_what_follows_is_not_read(strict: Strict, client: Wire, expect: bytes) -> None:
    client.raw(POST + b"Content-Length: 42\r\nExpect: " + expect + b"\r\n\r\n" + SMUGGLED[:20])
    assert client.read().status == 417
    client.raw(SMUGGLED)
    assert client.closed() and strict.seen == []


# -- who it is, through the side doors -------------------------------------------------------------------

SPELLINGS = [
    b"X-Consumer",
    b"x_consumer",
    b"X-CONSUMER",
    b"X.Consumer",
    b"X-Consumer-Id",
    b"x_Fleet-token",
    b"X+Consumer",
]
NAMED = [b"Proxy", b"PROXY", b"X-Real-IP", b"X-Original-Host", b"X-Forwarded-Host", b"x_forwarded_for", b"Forwarded"]


@pytest.mark.parametrize("name", [*SPELLINGS, *NAMED])
@pytest.mark.parametrize(
    "connection", [b"", b"Connection: X-Consumer, X-Fleet-Token, Proxy\r\n", b"Connection: x_consumer\r\n"]
)
def test_nothing_that_only_the_gateway_says_comes_through(
    gateway: Gateway, strict: Strict, client: Wire, name: bytes, connection: bytes
) -> None:
    evil = name + b": evil.example\r\n"
    key = b"X-API-Key: %b\r\n" % KEY.encode()
    client.raw(
        b"POST /up/x HTTP/1.1\r\nHost: a\r\n" + key + connection + evil * 2 + b"Transfer-Encoding: chunked\r\n\r\n"
    )
    client.raw(b"2\r\nok\r\n0\r\n" + evil + b"\r\n")
    assert client.read().json()["body"] == "ok"
    seen = one(strict)
    assert "evil" not in str(seen.fields) and [v for n, v in seen.fields if n == "x-consumer"] == ["tester"]
    assert [value for field, value in seen.fields if field == "x-forwarded-host"] == ["a"]
