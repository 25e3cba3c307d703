from __future__ import annotations

from dataclasses import dataclass

import pytest

from apps.gateway.core import headers
from apps.gateway.core.forward import answer_head, framing, request_head
from apps.gateway.core.headers import FramingError, Kinds, Lines, RequestHead, ResponseHead
from services.kit.problem import Refused


def sort_request(fields: list[tuple[bytes, bytes]]) -> RequestHead:
    return headers.sort_request([b"GET / HTTP/1.1", *(name + b": " + value for name, value in fields)])


def sort_response(fields: list[tuple[bytes, bytes]]) -> ResponseHead:
    return headers.sort_response([b"HTTP/1.1 200 OK", *(name + b": " + value for name, value in fields)])


@dataclass
class Asked:
    """See apps.gateway.core.forward.Outgoing."""

    method: bytes
    target: bytes
    head: RequestHead
    origin: bytes
    credentials: bytes
    trace_id: bytes
    span_id: bytes
    sampled: bool


def test_fields_that_only_the_gateway_may_set_are_dropped_however_they_are_spelt() -> None:
    spelt = [
        b"X-Consumer",
        b"x_consumer",
        b"X_CONSUMER",
        b"x-fleet_token",
        b"X-Forwarded-Host",
        b"Forwarded",
        b"x_real_ip",
        b"X.Consumer",
        b"x-consumer-username",
        b"X-Forwarded-User",
        b"X_Original!URL",
        b"X-HTTP-Method-Override",
    ]
    assert sort_request([(name, b"evil") for name in spelt]).lines == []


def test_an_underscored_copy_of_a_known_field_is_not_taken_for_it() -> None:
    head = sort_request([(b"Host", b"a"), (b"X_API_Key", b"k"), (b"Content_Length", b"5"), (b"under_score", b"kept")])
    assert head.key is None and head.length is None
    assert b"".join(head.lines) == b"under_score: kept"


def test_only_what_a_client_says_of_itself_is_dropped_by_how_it_begins() -> None:
    assert sort_request([(b"X-Forwarded-For", b"a"), (b"X-Forwardedx", b"b")]).forwarded == b"a"
    lines = sort_response([(b"X-Forwarded-Prefix", b"/a"), (b"X-Original-URL", b"/b")]).lines
    assert lines == [b"X-Forwarded-Prefix: /a", b"X-Original-URL: /b"]


def test_what_connection_names_stops_here() -> None:
    head = sort_request(
        [
            (b"Connection", b"close, X-Hop"),
            (b"connection", b"Other"),
            (b"X-Hop", b"1"),
            (b"Other", b"2"),
            (b"Kept", b"3"),
        ]
    )
    assert b"".join(head.lines) == b"Kept: 3"
    answer = sort_response([(b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Kept", b"2")])
    assert b"".join(answer.lines) == b"Kept: 2"


@pytest.mark.parametrize("name", [b"Host", b"X-API-Key", b"Authorization"])
def test_fields_that_may_not_come_twice_are_refused(name: bytes) -> None:
    with pytest.raises(Refused) as refused:
        sort_request([(name, b"a"), (name, b"b")])
    assert refused.value.problem.status == 400


def test_two_traceparents_are_none() -> None:
    assert sort_request([(b"traceparent", b"a"), (b"traceparent", b"b")]).traceparent == b""


def test_spellings_are_learnt_up_to_a_bound() -> None:
    kinds = Kinds({b"host": 2})
    for number in range(5000):
        assert kinds[b"X-%d" % number] == 0
    assert len(kinds) <= 1024 and kinds[b"HOST"] == 2


def test_credentials_that_connection_names_are_read_here_and_go_no_further() -> None:
    fields = [(b"Connection", b"Authorization, X-API-Key, Via"), (b"Authorization", b"Bearer x"), (b"X-API-Key", b"k")]
    head = sort_request([*fields, (b"Via", b"1.1 mission-control")])
    assert (head.authorization, head.key, head.via) == (b"Bearer x", b"k", 1)
    sent = request_head(Asked(b"GET", b"/", head, b"", b"", b"t", b"s", True), b"")
    assert b"Bearer" not in sent and sent.count(b"Via: 1.1 mission-control") == 2


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t "])
def test_white_space_around_a_value_is_not_part_of_it(space: bytes) -> None:
    head = sort_request([(b"X-API-Key", b"k" + space), (b"Host", b"a" + space), (b"Content-Length", b"5" + space)])
    assert (head.key, head.host, head.length) == (b"k", b"a", b"5")


def test_the_request_head_is_written_in_one_piece() -> None:
    head = sort_request([(b"Host", b"gw"), (b"Accept", b"*/*"), (b"Content-Length", b"5")])
    forwarded, identity = b"X-Forwarded-For: 9.9.9.9\r\n", b"X-Consumer: c\r\n"
    request = Asked(b"POST", b"/v1?q=1", head, forwarded, identity, b"a" * 32, b"\x01" * 8, True)
    data = request_head(request, b"Host: up\r\n")
    assert data == (
        b"POST /v1?q=1 HTTP/1.1\r\nHost: up\r\nAccept: */*\r\nVia: 1.1 mission-control\r\nX-Forwarded-For: 9.9.9.9\r\n"
        b"X-Forwarded-Host: gw\r\ntraceparent: 00-"
        + b"a" * 32
        + b"-0101010101010101-01\r\nX-Consumer: c\r\nContent-Length: 5\r\n\r\n"
    )


def test_framing_follows_rfc_9112() -> None:
    with_length, without = ResponseHead(), ResponseHead()
    with_length.length = b"5"

    def how(
        status: int, head: ResponseHead, *, head_only: bool = False, complete: bool = False, old: bool = False
    ) -> str:
        return framing(status, head, head_only=head_only, complete=complete, old=old)

    assert how(200, with_length) == "length" and how(200, without) == "chunked"
    assert how(200, without, complete=True) == "length" and how(200, without, old=True) == "close"
    assert how(204, with_length) == how(304, with_length) == how(200, with_length, head_only=True) == "none"


def test_a_204_never_carries_a_length_and_a_head_answer_keeps_it() -> None:
    head = ResponseHead()
    head.length = b"5"
    for status, expected in ((204, False), (304, True), (200, True)):
        data = b"".join(answer_head(status, head, "none", 0, b"", b"t", b"", keep=True, old=False))
        assert (b"Content-Length: 5" in data) is expected, status


def test_connection_may_name_cookies_and_what_is_left_of_them_stays_here() -> None:
    head = sort_request([(b"Host", b"x"), (b"Cookie", b"a=1; mc_session=s"), (b"Connection", b"Cookie")])
    assert head.lines == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no colon",
        b": x",
        b"a b: x",
        b"a : x",
        b" a: x",
        b"a: \x00",
        b"a: x\ny",
        b"a: x\ry",
        b"\xe9: x",
        b"a: \x7f",
    ],
)
def test_a_line_that_is_no_field_is_refused_each_time(line: bytes) -> None:
    lines = Lines(Kinds({}))
    for _ in range(2):
        with pytest.raises(FramingError):
            lines[line]
    assert not lines


def test_lines_are_remembered_up_to_a_bound_and_long_ones_not_at_all() -> None:
    lines = Lines(Kinds({b"host": 2}))
    for number in range(10_000):
        assert lines[b"X: %d" % number] == (0, b"%d" % number)
        assert len(lines) <= Lines.MOST
    assert lines[b"Host:\t a "] == lines[b"Host:\t a "] == (2, b"a")
    before = len(lines)
    assert lines[b"X: " + b"y" * 1000][0] == 0 and len(lines) == before
