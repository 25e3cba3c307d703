"""Whom the control process believes about who asks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missioncontrol.peer import believed, networks

TRUSTED = networks(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"])


def scope(peer: str | None, *headers: tuple[str, str], kind: str = "http", **more: Any) -> dict[str, Any]:
    lines = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": kind, "client": [peer, 5000] if peer else None, "headers": lines} | more


def client(peer: str, *hops: str) -> str:
    found = believed(scope(peer, *(("x-forwarded-for", hop) for hop in hops)), TRUSTED)
    return str(found["client"][0])


@pytest.mark.parametrize(
    ("peer", "hops", "expected"),
    [
        pytest.param("192.0.2.9", ["203.0.113.1"], "192.0.2.9", id="a stranger speaks for itself alone"),
        pytest.param("127.0.0.1", [], "127.0.0.1", id="a proxy that says nothing"),
        pytest.param("127.0.0.1", ["203.0.113.1"], "203.0.113.1", id="one hop"),
        pytest.param("127.0.0.1", ["6.6.6.6, 203.0.113.1"], "203.0.113.1", id="what the client wrote is left of it"),
        pytest.param("127.0.0.1", ["6.6.6.6", "203.0.113.1, 10.1.2.3"], "203.0.113.1", id="a chain of proxies"),
        pytest.param("127.0.0.1", ["10.1.2.3"], "10.1.2.3", id="all of it ours"),
        pytest.param("127.0.0.1", ["6.6.6.6, nonsense"], "127.0.0.1", id="a hop that is no address"),
        pytest.param("127.0.0.1", ["6.6.6.6, nonsense, 10.1.2.3"], "10.1.2.3", id="nonsense ends the chain"),
        pytest.param("127.0.0.1", ["203.0.113.1:4711"], "203.0.113.1", id="with a port"),
        pytest.param("127.0.0.1", ["[2001:db9::1]:4711"], "2001:db9::1", id="IPv6 with a port"),
        pytest.param("2001:db8::5", ["2001:db9::1"], "2001:db9::1", id="IPv6"),
        pytest.param("::ffff:127.0.0.1", ["203.0.113.1"], "203.0.113.1", id="IPv4 on an IPv6 socket"),
        pytest.param("127.0.0.1", [""], "127.0.0.1", id="an empty field"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_not_ours(peer: str, hops: list[str], expected: str) -> None:
    assert client(peer, *hops) == expected


@pytest.mark.parametrize(
    ("peer", "said", "kind", "scheme"),
    [
        ("192.0.2.9", "https", "http", "http"),
        ("127.0.0.1", "https", "http", "https"),
        ("127.0.0.1", "HTTPS", "websocket", "wss"),
        ("127.0.0.1", "https, http", "http", "http"),
        ("127.0.0.1", "http, https", "http", "https"),
        ("127.0.0.1", "", "websocket", "ws"),
    ],
)
def test_tls_is_what_a_trusted_peer_says_last(peer: str, said: str, kind: str, scheme: str) -> None:
    assert believed(scope(peer, ("x-forwarded-proto", said), kind=kind), TRUSTED)["scheme"] == scheme


def test_no_forwarding_field_reaches_anybody() -> None:
    fields = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-anything",
        "forwarded",
        "x-real-ip",
    ]
    for peer in ("127.0.0.1", "192.0.2.9", None):
        found = believed(scope(peer, ("host", "mc"), *((name, "1.1.1.1") for name in fields)), TRUSTED)
        assert found["headers"] == [(b"host", b"mc")]


@given(st.lists(st.text(max_size=40), max_size=5))
def test_whatever_a_stranger_writes_changes_nothing(hops: list[str]) -> None:
    given_ = scope("192.0.2.9")
    given_["headers"] = [(b"x-forwarded-for", hop.encode()) for hop in hops]
    assert believed(given_, TRUSTED)["client"] == ["192.0.2.9", 5000]
