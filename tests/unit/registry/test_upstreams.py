"""What an instance's address may look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.registry.upstreams import Upstream, UpstreamError, parse_upstream


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://10.0.0.7:7102", Upstream("http", "10.0.0.7", 7102)),
        ("http://mint", Upstream("http", "mint", 80)),
        ("https://mint.example.org/", Upstream("https", "mint.example.org", 443)),
        ("http://[::1]:8080", Upstream("http", "::1", 8080)),
    ],
)
def test_an_address_is_scheme_host_and_port(value: str, expected: Upstream) -> None:
    assert parse_upstream(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "mint:80",
        "//mint:80",
        "ftp://mint",
        "http://",
        "http://:80",
        "http://mint:0",
        "http://mint:65536",
        "http://mint:x",
        "http://[::1",
        "http://user@mint",
        "http://u:p@mint",
        "http://mint/path",
        "http://mint?q",
        "http://mint#f",
        "http://mi nt",
        "http://mint\r\nHost: evil",
        "http://mint\x00",
    ],
)
def test_anything_more_or_less_is_refused(value: str) -> None:
    with pytest.raises(UpstreamError):
        parse_upstream(value)


@given(st.text(max_size=60))
def test_whatever_is_typed_is_read_or_refused(value: str) -> None:
    for text in (value, f"http://{value}"):
        try:
            found = parse_upstream(text)
        except UpstreamError:
            continue
        assert found.host and 0 < found.port < 65536
