"""What RFC 9110 and RFC 9112 ask of a proxy at its edges, byte by byte; each test names its section."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from apps.gateway.core import config
from tests.wire.gateway import KEY, Answer, Gateway, running
from tests.wire.test_gateway_framing import fields_of


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        found.publish(
            routes=(*found.document.routes, config.Route("own", "up", "/own", auth=(), forward_credentials=True))
        )
        yield found


def ask(gateway: Gateway, data: bytes, *, closes: bool = False) -> Answer:
    with contextlib.closing(gateway.connect()) as connection:
        connection.raw(data)
        answer = connection.read()
        assert not closes or connection.closed()
        return answer


def test_a_coding_below_chunked_is_501_and_not_lost(gateway: Gateway) -> None:
    """RFC 9112 section 6.1."""
    head = b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    answer = ask(gateway, head, closes=True)
    assert (answer.status, answer.failure) == (501, "coding_unsupported")


@pytest.mark.parametrize("coding", [b"gzip", b"chunked, gzip", b"chunked, chunked", b"identity", b""])
def test_a_body_whose_end_can_not_be_told_is_400(gateway: Gateway, coding: bytes) -> None:
    """RFC 9112 section 6.3."""
    head = b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert ask(gateway, head % coding, closes=True).failure == "framing"


def test_transfer_encoding_in_http_1_0_is_a_framing_fault(gateway: Gateway) -> None:
    """RFC 9112 section 6.1."""
    head = b"POST /open/echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert ask(gateway, head, closes=True).failure == "framing"


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"user@a", b"[::1", b"a:x", b"a:99999", b"a,b/", b"%zz", b"\xe9"])
def test_a_host_that_is_none_is_400(gateway: Gateway, host: bytes) -> None:
    """RFC 9112 section 3.2, in the field and in the absolute form's authority."""
    assert ask(gateway, b"GET /open/echo HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").status == 400
    target = b"http://" + host.replace(b"/", b"@").replace(b" ", b"^") + b"/open/echo"
    assert ask(gateway, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n").status == 400


def test_the_absolute_forms_authority_is_the_host(gateway: Gateway) -> None:
    """RFC 9112 section 3.2.2."""
    echo = ask(gateway, b"GET http://real:8080/open/echo HTTP/1.1\r\nHost: other\r\n\r\n").json()
    assert fields_of(echo, "x-forwarded-host") == ["real:8080"]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /open/x HTTP/0.9", 505),
        (b"GET /open/x HTTP/2.0", 505),
        (b"GET /open/x HTTP/1.2", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET /open/x RTSP/1.0", 400),
        (b"GET /open/x ICE/1.0", 400),
        (b"GET /open/x", 400),
    ],
)
def test_only_http_1_is_spoken(gateway: Gateway, line: bytes, status: int) -> None:
    """RFC 9110 section 15.6.6."""
    assert ask(gateway, line + b"\r\nHost: a\r\n\r\n", closes=True).status == status


@pytest.mark.parametrize("space", [" ", "\t", " \t "])
def test_white_space_around_a_key_is_not_part_of_it(gateway: Gateway, space: str) -> None:
    """RFC 9112 section 5.1."""
    assert gateway.get("/up/echo", f"X-API-Key:{space}{KEY}{space}").status == 200
    assert gateway.get("/up/echo", f"Authorization: Bearer {KEY}{space}").status == 200


@pytest.mark.parametrize("field", [f"X-API-Key: {KEY}", f"Authorization: Bearer {KEY}"])
def test_credentials_that_connection_names_authenticate_here_and_go_no_further(gateway: Gateway, field: str) -> None:
    """RFC 9110 section 7.6.1."""
    named = "Connection: Authorization, X-API-Key, X-Consumer, X-Forwarded-For, Via, Host, Content-Length"
    echo = gateway.get("/up/echo", field, named, method="POST", body=b"kept").json()
    assert fields_of(echo, "x-consumer") == ["tester"] and fields_of(echo, "x-forwarded-for") == ["127.0.0.1"]
    assert echo["body"] == "kept" and len(fields_of(echo, "via")) == 1
    passed = gateway.get("/own/echo", "Authorization: Basic eDp5", "Connection: Authorization").json()
    assert fields_of(passed, "authorization") == []
    assert fields_of(gateway.get("/own/echo", "Authorization: Basic eDp5").json(), "authorization") == ["Basic eDp5"]


def test_trace_shows_nobody_what_only_an_instance_may_see(gateway: Gateway) -> None:
    """RFC 9110 section 9.3.8."""
    before = gateway.seen()["seen"].get("/echo", 0)
    answer = gateway.get("/up/echo", f"X-API-Key: {KEY}", method="TRACE")
    assert (answer.status, answer.failure) == (405, "method_not_allowed") and "GET" in answer.fields["allow"]
    assert gateway.seen()["seen"].get("/echo", 0) == before


def test_max_forwards_is_counted_down_and_ends_at_nought(gateway: Gateway) -> None:
    """RFC 9110 section 7.6.2."""
    echo = gateway.get("/open/echo", "Max-Forwards: 5", method="OPTIONS").json()
    assert fields_of(echo, "max-forwards") == ["4"]
    ended = gateway.get("/get/echo/hops", "Max-Forwards: 0", method="OPTIONS")
    assert ended.status == 405  # the route takes GET and HEAD
    ended = gateway.get("/open/echo/hops", "Max-Forwards: 0", method="OPTIONS")
    assert ended.status == 204 and "OPTIONS" in ended.fields["allow"]
    assert "/echo/hops" not in gateway.seen()["seen"]
    assert gateway.get("/open/echo", "Max-Forwards: many", method="OPTIONS").status == 400
    assert fields_of(gateway.get("/open/echo", "Max-Forwards: 0").json(), "max-forwards") == ["0"]


def test_the_asterisk_asks_about_the_server_as_a_whole(gateway: Gateway) -> None:
    """RFC 9110 section 9.3.7, RFC 9112 section 3.2.4."""
    with contextlib.closing(gateway.connect()) as connection:
        for _ in range(2):
            connection.raw(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = connection.read()
            assert answer.status == 204 and "OPTIONS" in answer.fields["allow"]
            assert "content-length" not in answer.fields
    assert ask(gateway, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n").failure == "path_invalid"


def test_an_unknown_expectation_is_417(gateway: Gateway) -> None:
    """RFC 9110 section 10.1.1."""
    assert gateway.get("/open/echo", "Expect: the-impossible", method="POST", body=b"x").status == 417
