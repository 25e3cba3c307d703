"""Content codings: back and forth, bounded, and honest about broken input."""

from __future__ import annotations

import gzip
import os
import time

import pytest

from apps.telemetry.coding import CodingError, TooLarge, Unsupported, choose, decode, encode

CODINGS = ("gzip", "deflate", "lz4", "zstd")


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("data", [b"", b"x", bytes(3_000_000), os.urandom(300_000)])
def test_what_is_packed_unpacks_to_the_same(coding: str, data: bytes) -> None:
    assert decode(encode(data, coding), coding, 4_000_000) == data


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_stops_at_the_bound(coding: str) -> None:
    with pytest.raises(TooLarge):
        decode(encode(bytes(20_000_000), coding), coding, 1_000_000)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_cut_body_is_refused(coding: str) -> None:
    packed = encode(os.urandom(100_000), coding)
    with pytest.raises(CodingError):
        decode(packed[: len(packed) // 2], coding, 1_000_000)


@pytest.mark.parametrize("coding", CODINGS)
def test_nothing_at_all_is_refused(coding: str) -> None:
    with pytest.raises(CodingError):
        decode(b"", coding, 1_000_000)


@pytest.mark.parametrize("coding", CODINGS)
def test_noise_is_refused(coding: str) -> None:
    with pytest.raises(CodingError):
        decode(b"\xffthis is not packed at all", coding, 1_000_000)


def test_gzip_members_follow_one_another() -> None:
    assert decode(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", 100) == b"ab"


def test_members_may_be_many_and_end_anywhere() -> None:
    one = gzip.compress(os.urandom(1021))
    assert len(decode(one * 1000, "gzip", 2_000_000)) == 1021 * 1000


def test_a_body_of_members_alone_costs_no_more_than_any_other() -> None:
    began = time.process_time()
    with pytest.raises(TooLarge, match="streams"):
        decode(gzip.compress(b"") * 800_000, "gzip", 1_000_000)
    assert time.process_time() - began < 2


def test_an_unknown_coding_is_named() -> None:
    with pytest.raises(Unsupported, match="br"):
        decode(b"", "br", 100)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("", ""), ("gzip", "gzip"), ("gzip, lz4;q=0.5", "lz4"), ("br", ""), ("lz4;q=0, zstd", "zstd"), ("*", "")],
)
def test_the_cheapest_accepted_coding_is_chosen(accepted: str, chosen: str) -> None:
    assert choose(accepted) == chosen
