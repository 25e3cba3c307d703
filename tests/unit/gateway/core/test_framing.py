"""Where bodies end: against a model, against llhttp, and in any segmentation."""

from __future__ import annotations

from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core.framing import Body, Chunked, Endless, Sized, request_body, response_body
from apps.gateway.core.headers import FramingError

MORE = b"GET / HTTP/1.1\r\n\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(at)]


def read(body: Body, parts: list[bytes]) -> tuple[bytes, bytes]:
    """The content, and what was left behind it."""
    out: list[bytes] = []
    behind = b""
    for part in parts:
        if body.done:
            behind += part
            continue
        stop = body.feed(part, 0, out)
        assert stop == len(part) or body.done
        behind += part[stop:]
    assert body.size == sum(map(len, out))
    return b"".join(out), behind


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.binary(min_size=1, max_size=200), cuts)
def test_a_sized_body_takes_its_own_and_leaves_the_rest(content: bytes, where: list[int]) -> None:
    body = Sized(len(content))
    assert read(body, pieces(content + MORE, where)) == (content, MORE) and body.done


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), cuts, st.booleans())
def test_a_chunked_body_takes_its_own_and_leaves_the_rest(chunks: list[bytes], where: list[int], more: bool) -> None:
    extension, trailers = (b" ;a=b", b"X: y\r\nZ:\r\n") if more else (b"", b"")
    data = b"".join(b"%X%b\r\n%b\r\n" % (len(each), extension, each) for each in chunks)
    data += b"000" + extension + b"\r\n" + trailers + b"\r\n"
    body = Chunked(1000)
    assert read(body, pieces(data + MORE, where)) == (b"".join(chunks), MORE) and body.done


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_an_endless_body_never_ends_by_itself(parts: list[bytes]) -> None:
    body = Endless()
    assert read(body, parts) == (b"".join(parts), b"") and not body.done


class Oracle:
    """llhttp's reading of the same chunked body."""

    def __init__(self, data: bytes) -> None:
        self.content = b""
        self.done = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + data)

    def on_body(self, data: bytes) -> None:
        self.content += data

    def on_message_complete(self) -> None:
        self.done = True


tokens = st.sampled_from(
    [
        b"0",
        b"1",
        b"5",
        b"a",
        b"F",
        b"\r\n",
        b"\n",
        b"\r",
        b"x",
        b"hello",
        b" ",
        b";",
        b"=",
        b"X: y",
        b"\x00",
        b'"',
        b"-",
    ]
)


lines = st.sampled_from([b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"0\r\n", b"X: y\r\n", b"\r\n"])


@given(st.lists(tokens | lines, max_size=14).map(b"".join), cuts)
def test_nothing_is_read_that_llhttp_would_refuse_or_read_otherwise(data: bytes, where: list[int]) -> None:
    body = Chunked(1000)
    try:
        content, behind = read(body, pieces(data, where))
    except FramingError:
        return
    if not body.done:
        return  # llhttp refuses the start of a bad line, we its end
    oracle = Oracle(data[: len(data) - len(behind)])
    assert (oracle.content, oracle.done) == (content, body.done)


@pytest.mark.parametrize(
    "data",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"5\n",
        b"\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n",
        b"5;\x00\r\n",
        b"5;a\n0\r\n",
        b"00000000000000005\r\n",
        b"0\r\nBad Name: x\r\n",
        b"0\r\nX: a\x00b\r\n",
        b"0\r\n folded\r\n",
    ],
)
def test_chunks_that_can_be_read_in_two_ways_are_refused(data: bytes) -> None:
    with pytest.raises(FramingError) as refused:
        Chunked(1000).feed(data, 0, [])
    assert refused.value.status == 400


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(
    "data",
    [
        b"5;" + b"x" * 5000,
        b"1;aaaaaaaaaaaaaa\r\nz\r\n" * 500,
        b"0\r\nX: " + b"y" * 5000,
        b"0\r\n" + b"X: y\r\n" * 900,
        b"5" * 5000,
    ],
)
def test_extensions_and_trailers_are_paid_from_one_budget(data: bytes, step: int) -> None:
    body = Chunked(1000)
    with pytest.raises(FramingError) as refused:
        for at in range(0, len(data), step):
            body.feed(data[at : at + step], 0, [])
    assert refused.value.status == 431


def test_a_request_is_framed_as_rfc_9112_section_6_says() -> None:
    def status(length: bytes | None, coding: bytes | None, *, old: bool = False) -> int | Body | None:
        try:
            return request_body(length, coding, old=old, budget=100)
        except FramingError as error:
            return error.status

    assert status(None, None) is None and status(b"0", None) is None
    assert isinstance(status(b"5", None), Sized) and isinstance(status(None, b"Chunked"), Chunked)
    assert status(b"5", b"chunked") == 400
    assert status(b"+5", None) == status(b"5, 5", None) == status(b"", None) == status(b"9" * 30, None) == 400
    assert status(None, b"gzip") == status(None, b"chunked, gzip") == status(None, b"chunked, chunked") == 400
    assert status(None, b"") == status(None, b"chunked", old=True) == 400
    assert status(None, b"gzip, chunked") == status(None, b"gzip,chunked") == 501


def test_an_answer_is_framed_as_rfc_9112_section_6_says() -> None:
    def body(status: int, length: bytes | None, coding: bytes | None, head_only: bool = False) -> Body | int:
        return response_body(status, length, coding, head_only=head_only, old=False, budget=100)

    assert isinstance(body(200, None, None), Endless) and body(200, b"5", None) == 5
    assert isinstance(body(200, None, b"chunked"), Chunked) and body(200, b"0", None) == 0
    assert body(204, b"5", None) == body(304, b"5", None) == body(200, b"5", None, True) == 0
    for coding in (b"gzip", b"gzip, chunked"):
        with pytest.raises(FramingError):
            body(200, None, coding)
