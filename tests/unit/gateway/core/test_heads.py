from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core.framing import FramingError
from apps.gateway.core.headers import MAX_HEAD
from apps.gateway.core.heads import RequestReader, ResponseReader

HEAD = b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nX: y\r\n\r\n"
OFFER = b"POST /a?b HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\n"


@given(st.sampled_from([HEAD, OFFER]), st.sets(st.integers(1, 100)), st.integers(0, 2))
def test_a_head_is_read_to_its_end_and_not_a_byte_further(head: bytes, cuts: set[int], blank: int) -> None:
    reader = RequestReader()
    for _ in range(3):
        data = b"\r\n" * blank + head + b"bodyGET / HTTP/1.1\r\n\r\n"
        at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        taken = 0
        for start, stop in pairwise(at):
            part, offset = data[start:stop], 0
            while offset < len(part) and not reader.whole:
                offset = reader.feed(part, offset)
            taken += offset
            if reader.whole:
                break
        assert data[taken:].startswith(b"bodyGET") and len(data) - taken == 4 + 18
        assert (reader.method, reader.target, reader.keep, reader.old) == (b"POST", b"/a?b", True, False)
        assert dict(reader.fields)[b"Host"] == b"h" and reader.size == len(b"\r\n" * blank + head)
        reader.renew()


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
        (b"DESCRIBE / RTSP/1.0", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_only_http_1_is_spoken(line: bytes, status: int, step: int) -> None:
    """RFC 9110 section 15.6.6, RFC 9112 section 2.3."""
    data = line + b"\r\nHost: a\r\n\r\n"
    reader = RequestReader()
    with pytest.raises(FramingError) as refused:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step], 0)
    assert refused.value.status == status


def test_heads_are_bounded_in_bytes_and_fields() -> None:
    for block in (b"X: " + b"y" * MAX_HEAD, b"A: b\r\n" * 101 + b"\r\n"):
        with pytest.raises(FramingError) as refused:
            RequestReader().feed(b"GET / HTTP/1.1\r\n" + block, 0)
        assert refused.value.status == 431
    with pytest.raises(FramingError):
        ResponseReader().feed(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", 0)


def test_a_bare_line_feed_is_refused_at_once() -> None:
    with pytest.raises(FramingError):
        RequestReader().feed(b"GET / HTTP/1.1\nHost: a\n\n", 0)


def test_an_answer_to_head_does_not_make_the_next_one_a_body() -> None:
    reader = ResponseReader()
    for _ in range(3):
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
        assert reader.feed(data, 0) == len(data) and reader.status == 200 and reader.keep
        reader.renew()
