from __future__ import annotations

import pytest

from apps.gateway.core.forward import answer_head, framing, request_head, split_target
from apps.gateway.core.headers import Kinds, RequestHead, ResponseHead, host_name, sort_request, sort_response
from apps.lib.problem import Refused


def test_fields_that_only_the_gateway_may_set_are_dropped_however_they_are_spelt() -> None:
    spelt = [
        b"X-Consumer",
        b"x_consumer",
        b"X_CONSUMER",
        b"x-fleet_token",
        b"X-Forwarded-Host",
        b"Forwarded",
        b"x_real_ip",
    ]
    assert sort_request([(name, b"evil") for name in spelt]).lines == []


def test_an_underscored_copy_of_a_known_field_is_not_taken_for_it() -> None:
    head = sort_request([(b"Host", b"a"), (b"X_API_Key", b"k"), (b"Content_Length", b"5"), (b"under_score", b"kept")])
    assert head.key is None and head.length is None
    assert b"".join(head.lines) == b"under_score: kept\r\n"


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
    assert b"".join(head.lines) == b"Kept: 3\r\n"
    answer = sort_response([(b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Kept", b"2")])
    assert b"".join(answer.lines) == b"Kept: 2\r\n"


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


def test_hosts_lose_port_case_and_trailing_dot() -> None:
    assert host_name(b"Example.ORG.:8080") == "example.org"
    assert host_name(b"[::1]:80") == "[::1]"


def test_the_request_head_is_written_in_one_piece() -> None:
    head = sort_request([(b"Host", b"gw"), (b"Accept", b"*/*"), (b"Content-Length", b"5")])
    data = request_head(
        b"POST",
        "/v1",
        b"?q=1",
        b"Host: up\r\n",
        head,
        b"X-Forwarded-For: 9.9.9.9\r\n",
        b"X-Consumer: c\r\n",
        b"a" * 32,
        b"\x01" * 8,
        True,
    )
    assert data == (
        b"POST /v1?q=1 HTTP/1.1\r\nHost: up\r\nAccept: */*\r\nVia: 1.1 mission-control\r\nX-Forwarded-For: 9.9.9.9\r\n"
        b"X-Forwarded-Host: gw\r\ntraceparent: 00-"
        + b"a" * 32
        + b"-0101010101010101-01\r\nX-Consumer: c\r\nContent-Length: 5\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        (b"/a?b", b"h", b"/a", b"?b"),
        (b"http://x/a", b"x", b"/a", b""),
        (b"HTTPS://x:1?q", b"x:1", b"/", b"?q"),
        (b"http://x", b"x", b"/", b""),
    ],
)
def test_targets_split(target: bytes, host: bytes, path: bytes, query: bytes) -> None:
    head = RequestHead()
    head.host = b"h"
    assert split_target(b"GET", target, head, old=False) == (path, query) and head.host == host


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
