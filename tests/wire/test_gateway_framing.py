"""The gateway at the level of bytes: framing, fields that must not pass, bodies both ways."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import until
from tests.wire.gateway import FLEET_TOKEN, KEY, Gateway, running

AUTH = f"X-API-Key: {KEY}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        yield found


def fields_of(echo: dict[str, list[list[str]]], name: str) -> list[str]:
    return [value for key, value in echo["fields"] if key == name]


def test_a_request_crosses_and_its_answer_comes_back(gateway: Gateway) -> None:
    status, fields, body = gateway.get("/up/echo/a?b=c%20d", AUTH, "X-Custom: kept")
    echo = json.loads(body)
    assert status == 200 and echo["url"] == "/echo/a?b=c%20d"
    assert fields_of(echo, "x-custom") == ["kept"]
    assert fields_of(echo, "host") == [f"127.0.0.1:{gateway.upstream_port}"]
    assert fields_of(echo, "x-forwarded-host") == ["gw"]
    assert len(fields["x-trace-id"]) == 32 and fields_of(echo, "traceparent")[0].split("-")[1] == fields["x-trace-id"]


def test_hop_by_hop_fields_stop_at_the_gateway_both_ways(gateway: Gateway) -> None:
    sent = [
        "Connection: keep-alive, X-Private",
        "X-Private: 1",
        "Keep-Alive: 5",
        "TE: trailers",
        "Proxy-Authorization: x",
    ]
    answer = gateway.get("/up/echo", AUTH, *sent)
    names = {name for name, _ in answer.json()["fields"]}
    assert not names & {"connection", "x-private", "keep-alive", "te", "proxy-authorization"}
    assert not set(answer.fields) & {"x-hop", "keep-alive", "connection"}


def test_identity_and_forwarding_fields_of_a_client_do_not_pass(gateway: Gateway) -> None:
    spoofed = ["X-Consumer: admin", "X_Consumer: admin", "X-Fleet-Token: guess", "X-Forwarded-For: 1.2.3.4"]
    spoofed += ["X-Forwarded-Proto: https", "Forwarded: for=1.2.3.4", "X-Failed-Dependency: x", "X-Real-IP: 1.2.3.4"]
    echo = gateway.get("/up/echo", AUTH, *spoofed).json()
    assert fields_of(echo, "x-consumer") == ["tester"] and fields_of(echo, "x_consumer") == []
    assert fields_of(echo, "x-forwarded-for") == ["127.0.0.1"] and fields_of(echo, "x-forwarded-proto") == ["http"]
    for name in ("x-fleet-token", "forwarded", "x-failed-dependency", "x-real-ip", "x-api-key"):
        assert fields_of(echo, name) == [], name


def test_the_fleet_token_goes_to_fleet_services_alone(gateway: Gateway) -> None:
    gateway.publish(services=gateway.service(fleet=True))
    assert fields_of(gateway.get("/up/echo", AUTH).json(), "x-fleet-token") == [FLEET_TOKEN]
    gateway.publish(services=gateway.service(fleet=False))
    assert fields_of(gateway.get("/up/echo", AUTH).json(), "x-fleet-token") == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"GET /open/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /open/echo HTTP/1.1\r\n\r\n",
        b"GET /open/echo HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        b"GET /open/echo HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
        b"GET /open/echo HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /open/a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open/a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open/a%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open/..%5c HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_400_with_a_problem_document(
    gateway: Gateway, request_bytes: bytes
) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        connection.raw(request_bytes)
        status, fields, body = connection.read()
        problem = json.loads(body)
        assert status == 400 and fields["content-type"] == "application/problem+json"
        assert problem["failure"] in {"framing", "path_invalid"}
        assert fields["x-trace-id"] == problem["trace_id"]


def test_framing_errors_close_the_connection_and_nothing_after_them_is_served(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        smuggled = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        head = b"POST /open/echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.raw(head % len(smuggled) + b"0\r\n\r\n" + smuggled)
        assert connection.read().status == 400
        assert connection.closed()
    assert "/smuggled" not in gateway.seen()["seen"]


def test_one_path_for_matching_and_forwarding(gateway: Gateway) -> None:
    assert gateway.get("/open/%65cho/./x/../y//z").json()["url"] == "/echo/y/z"
    assert gateway.get("/up/../open/echo").json()["url"] == "/echo"
    assert gateway.get("/open/../up/echo").status == 401
    assert gateway.get("/%75p/echo").status == 401
    assert gateway.get("/openx").status == 404


def test_a_wrong_method_is_405_with_the_right_ones_and_an_unknown_route_404(gateway: Gateway) -> None:
    wrong = gateway.get("/get/x", method="POST", body=b"x")
    assert (wrong.status, wrong.failure, wrong.fields["allow"]) == (405, "method_not_allowed", "GET, HEAD")
    assert gateway.get("/nowhere").failure == "no_route"


def test_absolute_form_and_http_1_0_are_understood(gateway: Gateway) -> None:
    assert gateway.get("http://other/open/echo?q=1").json()["url"] == "/echo?q=1"
    with contextlib.closing(gateway.connect()) as connection:
        connection.raw(b"GET /open/chunks/3 HTTP/1.0\r\n\r\n")
        status, fields, body = connection.read()
        assert status == 200 and "transfer-encoding" not in fields and body == b"c0000c0001c0002"
    with contextlib.closing(gateway.connect()) as connection:
        connection.raw(b"GET /open/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert connection.read().fields["connection"] == "keep-alive"
        connection.raw(b"GET /open/x HTTP/1.0\r\n\r\n")
        assert connection.read().status == 200 and connection.closed()


def test_connect_and_websockets_are_refused_by_name(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        connection.raw(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert connection.read().failure == "connect_unsupported"
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"]
    assert gateway.get("/open/x", *upgrade).failure == "upgrade_unsupported"
    ignored = gateway.get(
        "/open/echo", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
    )
    assert ignored.status == 200 and "upgrade" not in dict(ignored.json()["fields"])


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        paths = [b"/open/slow/0.1", b"/open/echo/2", b"/nowhere", b"/open/status/404", b"/open/echo/5"]
        connection.raw(b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths))
        answers = [connection.read() for _ in paths]
        assert [answer.status for answer in answers] == [200, 200, 404, 404, 200]
        assert answers[1].json()["url"] == "/echo/2" and answers[4].json()["url"] == "/echo/5"
        connection.raw(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" * 3000)
        assert {connection.read().status for _ in range(3000)} == {404}


def test_bodies_go_up_whole_by_length_and_by_chunks(gateway: Gateway) -> None:
    assert gateway.get("/open/echo", method="POST", body=b"hello").json()["body"] == "hello"
    with contextlib.closing(gateway.connect()) as connection:
        connection.raw(b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        connection.raw(b"7\r\n, world\r\n0\r\nX-Trailer: gone\r\n\r\n")
        echo = connection.read().json()
        assert echo["body"] == "hello, world" and "x-trailer" not in dict(echo["fields"])
        big = b"z" * 3_000_000
        connection.send("PUT /open/echo HTTP/1.1", "Host: a", f"Content-Length: {len(big)}", body=big)
        assert len(connection.read().json()["body"]) == len(big)


def test_expect_100_continue_is_answered_by_the_gateway_once_it_wants_the_body(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("POST /open/echo HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue")
        assert connection.read().status == 100
        connection.raw(b"ok")
        echo = connection.read().json()
        assert echo["body"] == "ok" and "expect" not in dict(echo["fields"])
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("POST /up/echo HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue")
        assert connection.read().status == 401  # refused before a byte of the body was asked for


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(gateway: Gateway, chunked: bool) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        if chunked:
            connection.raw(b"POST /open/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
            with contextlib.suppress(OSError):
                for _ in range(170):
                    connection.raw(block)
        else:
            connection.send("POST /open/echo HTTP/1.1", "Host: a", "Content-Length: 99999999999")
        answer = connection.read()
        assert (answer.status, answer.failure, answer.fields["connection"]) == (413, "body_too_large", "close")
        assert connection.closed()


def test_heads_past_the_limits_are_431_and_414(gateway: Gateway) -> None:
    for lines, failure in (
        ([f"X-{number}: x" for number in range(150)], "headers_too_large"),
        (["X-Long: " + "x" * 70_000], "headers_too_large"),
    ):
        assert gateway.get("/open/echo", *lines).failure == failure
    assert gateway.get("/open/" + "a" * 20_000).failure == "target_too_long"
    with contextlib.closing(gateway.connect()) as connection:
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.raw(b"GET /open/echo HTTP/1.1\r\nX: " if _ == 0 else b"y" * 10_000)
        assert connection.read().status == 431


def test_answers_without_bodies_keep_the_connection_in_step(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        for method, path, status in (
            ("HEAD", "/open/echo", 200),
            ("GET", "/open/status/204", 204),
            ("GET", "/open/status/304", 304),
            ("HEAD", "/open/bytes/1000", 200),
            ("GET", "/open/echo", 200),
        ):
            connection.send(f"{method} {path} HTTP/1.1", "Host: a")
            answer = connection.read(method)
            assert answer.status == status, path
            assert ("content-length" in answer.fields) == (status == 200)


def test_chunked_close_delimited_and_informational_answers_come_through(gateway: Gateway) -> None:
    assert gateway.get("/open/chunks/20").body == b"".join(b"c%04d" % number for number in range(20))
    assert gateway.get("/open/close").body == b"until the end"
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/hints HTTP/1.1", "Host: a")
        hint = connection.read()
        assert (hint.status, hint.fields["link"]) == (103, "</a.css>")
        assert connection.read().body == b"done"


def test_an_answer_that_breaks_off_is_not_passed_for_whole(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/cut HTTP/1.1", "Host: a")
        with pytest.raises((EOFError, ConnectionError)):
            connection.read()
    broken = gateway.get("/open/garbage")
    assert (broken.status, broken.failure) == (502, "upstream_protocol_error")


def test_several_set_cookie_fields_stay_apart(gateway: Gateway) -> None:
    with contextlib.closing(gateway.connect()) as connection:
        connection.send("GET /open/echo HTTP/1.1", "Host: a")
        connection.read()
        assert connection.raw_head.count(b"Set-Cookie: ") == 2


def test_a_client_that_reads_slowly_holds_back_the_upstream_and_not_the_memory(gateway: Gateway) -> None:
    size = 200_000_000
    with contextlib.closing(gateway.connect()) as connection:
        connection.send(f"GET /open/bytes/{size} HTTP/1.1", "Host: a")
        pid = gateway.worker_pids()[0]
        before = rss(pid)
        until(lambda: b"\r\n\r\n" in connection.buffer or connection.more(), 5)
        for _ in range(20):
            assert gateway.get("/open/x").status == 200  # others are served meanwhile
        assert rss(pid) - before < 20_000_000
        connection.buffer = connection.buffer.split(b"\r\n\r\n", 1)[1]
        assert connection.skip(size) == size


def rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
