"""Heads against llhttp, in any segmentation: whatever is read here, Node's parser reads the same way."""

from __future__ import annotations

import time
from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apps.gateway.core.framing import request_body
from apps.gateway.core.headers import MAX_HEAD, FramingError
from apps.gateway.core.heads import Buffer, persists, read_request, read_response, request_line, status_line
from services.kit.problem import Refused

HEAD = b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nX: y\r\n\r\n"
OFFER = b"POST /a?b HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\n"


@given(st.sampled_from([HEAD, OFFER]), st.sets(st.integers(1, 100)), st.integers(0, 2))
def test_a_head_is_taken_to_its_end_and_not_a_byte_further(head: bytes, cuts: set[int], blank: int) -> None:
    buffer = Buffer(request_line)
    data = b"\r\n" * blank + head + b"bodyGET / HTTP/1.1\r\n\r\n"
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for _ in range(3):
        taken = 0
        for start, stop in pairwise(at):
            taken += buffer.feed(data[start:stop], 0)
            if buffer.head is not None:
                break
        assert data[taken:] == b"bodyGET / HTTP/1.1\r\n\r\n"
        assert buffer.head == head[:-4] and buffer.size == len(b"\r\n" * blank + head)


class Oracle:
    """llhttp's reading."""

    def __init__(self, parser: type, data: bytes) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.parser = parser(self)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass

    def on_url(self, data: bytes) -> None:
        self.target += data

    def on_headers_complete(self) -> None:
        self.keep = self.parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.strip(b" \t")))


words = [b"GET", b"POST", b" ", b"/", b"/a?b", b"HTTP/1.1", b"HTTP/1.0", b":", b"\t", b"\x00", b"\xe9"]
ends = [b"\r\n", b"\n", b"\r"]
fields = [b"X: y\r\n", b"Host: a\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"E:\r\n"]
framing = [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"]
odd = [b" folded\r\n", b"Bad Name: x\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 ", b"200", b" OK", b"99"]
pieces = st.sampled_from([*words, *ends, *fields, *framing, *odd])


@given(st.lists(pieces, max_size=8).map(b"".join))
@example(b"Connection: keep-alive\r\nConnection: close\r\n")
def test_nothing_is_read_of_a_request_that_llhttp_would_refuse_or_read_otherwise(rest: bytes) -> None:
    for start in (b"", b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.0\r\n"):
        data = start + rest.rstrip(b"\r\n") + b"\r\n\r\n"
        buffer = Buffer(request_line)
        try:
            stop = buffer.feed(data, 0)
            if buffer.head is None:
                continue
            head = read_request(buffer.head)
            request_body(head.length, head.coding, old=head.old, budget=100)
        except (FramingError, Refused):
            continue
        if head.method not in {b"GET", b"POST"}:
            continue  # llhttp knows a list of methods; RFC 9110 section 9.1 leaves it open
        oracle = Oracle(httptools.HttpRequestParser, data[:stop])
        assert (oracle.parser.get_method(), oracle.target) == (head.method, head.target)
        assert oracle.parser.get_http_version() == ("1.0" if head.old else "1.1")
        # In HTTP/1.0 llhttp prefers keep-alive to close; RFC 9112 section 9.3 has it the other way.
        assert oracle.keep == head.keep or (head.old and not head.keep)
        names = [line.partition(b":")[0] for line in buffer.head.split(b"\r\n")[1:]]
        assert names == [name for name, _ in oracle.fields]
        for line in head.lines:
            name, _, value = line.partition(b":")
            assert (name, value.strip(b" \t")) in oracle.fields


@given(
    st.lists(pieces | st.sampled_from([b"HTTP/1.1 ", b"200", b" OK", b"99", b"HTTP/1.1 204 None\r\n"]), max_size=8).map(
        b"".join
    )
)
def test_nothing_is_read_of_an_answer_that_llhttp_would_refuse_or_read_otherwise(rest: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \r\n"):
        data = start + rest.rstrip(b"\r\n") + b"\r\n\r\n"
        buffer = Buffer(status_line)
        try:
            stop = buffer.feed(data, 0)
            if buffer.head is None:
                continue
            head = read_response(buffer.head)
            request_body(head.length, head.coding, old=head.old, budget=100)
        except FramingError:
            continue
        oracle = Oracle(httptools.HttpResponseParser, data[:stop])
        assert oracle.parser.get_status_code() == head.status
        assert oracle.parser.get_http_version() == ("1.0" if head.old else "1.1")
        assert len(oracle.fields) == buffer.head.count(b"\r\n")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/3", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET /", 400),
        (b"GET / RTSP/1.0", 400),
        (b"SOURCE / ICE/1.0", 400),
        (b"GET / http/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b" GET / HTTP/1.1", 400),
        (b"G@T / HTTP/1.1", 400),
        (b"GET HTTP/1.1", 400),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_only_http_1_is_spoken(line: bytes, status: int, step: int) -> None:
    """RFC 9110 section 15.6.6, RFC 9112 section 2.3. In pieces it is seen as soon as the line is there."""
    data = line + b"\r\nHost: a\r\n\r\n"
    buffer = Buffer(request_line)
    with pytest.raises(FramingError) as refused:
        for at in range(0, len(data), step):
            buffer.feed(data[at : at + step], 0)
            if step == 1:
                assert at <= len(line)
        assert buffer.head is not None
        read_request(buffer.head)
    assert refused.value.status == status


def test_heads_are_bounded_in_bytes_and_fields() -> None:
    for block in (b"X: " + b"y" * MAX_HEAD, b"\r\n" * MAX_HEAD):
        with pytest.raises(FramingError) as refused:
            Buffer(request_line).feed(block, 0)
        assert refused.value.status == 431
    many = b"A: b\r\n" * 100 + b"A: b"
    with pytest.raises(FramingError) as refused:
        read_request(b"GET / HTTP/1.1\r\n" + many)
    assert refused.value.status == 431
    with pytest.raises(FramingError):
        read_response(b"HTTP/1.1 200 OK\r\n" + many)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\r\nX: \x00",
        b"GET / HTTP/1.1\r\nX: a\nb",
        b"\x00",
        b"\n",
        b"\r\n\nGET / HTTP/1.1\r\n",
    ],
)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_nonsense_is_not_waited_for(data: bytes, step: int) -> None:
    buffer = Buffer(request_line)
    with pytest.raises(FramingError):
        for at in range(0, len(data), step):
            buffer.feed(data[at : at + step], 0)


def test_empty_lines_between_requests_are_paid_by_the_next_and_forgotten() -> None:
    buffer = Buffer(request_line)
    for _ in range(MAX_HEAD // 4):
        for data in (b"\r\n", b"\r", b"\n", HEAD):
            assert buffer.feed(data, 0) == len(data)
        assert buffer.head == HEAD[:-4] and buffer.size == len(HEAD) + 4


def test_a_head_that_comes_byte_by_byte_is_not_looked_at_again_each_time() -> None:
    """65,536 bytes, one at a time: each look is at a few bytes."""
    buffer = Buffer(request_line)
    started = time.process_time()
    for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 65_000:
        buffer.feed(bytes((byte,)), 0)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("target", [b"/a", b"a:443", b"*", b"http://a/"])
@pytest.mark.parametrize("method", [b"CONNECT", b"connect"])
def test_a_tunnel_is_501_whatever_its_target(method: bytes, target: bytes) -> None:
    for _ in range(2):
        with pytest.raises(FramingError) as refused:
            request_line(method + b" " + target + b" HTTP/1.1")
        assert (refused.value.status, refused.value.failure) == (501, "connect_unsupported")


def test_a_known_method_in_small_letters_is_none_and_an_unknown_one_is_its_own() -> None:
    for _ in range(2):
        with pytest.raises(FramingError):
            request_line(b"trace / HTTP/1.1")
        assert request_line(b"brew / HTTP/1.1")[0] == b"brew"
        assert request_line(b"BREW / HTTP/1.1")[0] == b"BREW"


def test_a_connection_persists_as_rfc_9112_section_9_3_says() -> None:
    assert persists(None, old=False) and not persists(None, old=True)
    assert persists(b"Keep-Alive", old=True) and not persists(b"keep-alive, Close", old=True)
    assert not persists(b"x ,\tclose", old=False) and persists(b"upgrade", old=False)
