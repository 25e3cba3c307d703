"""Which failures are one and the same, and when a delivery is tried again."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.events.letters.core import MAX_STACK, Failure, again_at, bounded, fingerprint, normalised


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("account 17 is over its limit", "account 4711 is over its limit"),
        ("no order 0193e4a2-1111-7abc-8def-000000000001", "no order ffffffff-2222-4abc-9def-0000000000ff"),
        ("connect to 10.0.0.1:8080 refused", "connect to 192.168.1.20:9 refused"),
        ("connect to [2001:db8::1]:443 refused", "connect to [fe80::2]:80 refused"),
        ("object at 0x7f00aa", "object at 0xdeadbeef"),
        ("name 'ann' is taken", "name 'bob, the second' is taken"),
        ("digest 0a1b2c3d4e5f60718293 differs", "digest ffee00112233445566aa differs"),
        ("GET https://a.example/x?y=1 gave 500", "GET https://b.example/z gave 500"),
        ("late since 2026-01-01T00:00:00Z", "late since 2027-12-31 23:59:59.123+02:00"),
        ("mail to ann@example.org failed", "mail to b.c+d@sub.example.com failed"),
        ("balance would be -1,234.50", "balance would be 7"),
        ("order ORD-2026-0001 unknown", "order ORD-1999-4321 unknown"),
    ],
)
def test_what_differs_from_event_to_event_does_not_make_another_failure(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("no such account", "no such currency"), ("defaced facade", "a bad cafe"), ("KeyError: a", "ValueError: a")],
)
def test_other_words_are_another_failure(one: str, other: str) -> None:
    assert fingerprint("s", "handler", one) != fingerprint("s", "handler", other)


def test_a_group_is_of_one_subscription_and_one_class() -> None:
    assert len({fingerprint(name, reason, "no") for name in ("a", "b") for reason in ("x", "y")}) == 4


@pytest.mark.parametrize(
    "text", ["'" * 100_000, "a@" * 50_000, "0" * 100_000, "1:" * 50_000, "a-1" * 40_000, "[" * 9999]
)
def test_a_hostile_error_costs_no_time(text: str) -> None:
    began = time.perf_counter()
    fingerprint("s", "handler", text)
    assert time.perf_counter() - began < 0.5


@given(st.text(max_size=300))
def test_any_text_has_a_fingerprint(text: str) -> None:
    assert len(fingerprint("s", "handler", text)) == 16


@given(st.text(max_size=9000))
def test_what_is_kept_fits_a_database(text: str) -> None:
    kept = bounded(text, MAX_STACK)
    assert len(kept) <= MAX_STACK and "\0" not in kept
    kept.encode()


def test_pauses_grow_and_end_by_attempt_or_by_age() -> None:
    failure, bounds = Failure("http_5xx"), {"attempts": 4, "age_s": 100.0}
    assert again_at(failure, 1, 0.0, 0.0, lambda: 1.0, **bounds) == 1.0
    assert again_at(failure, 3, 0.0, 5.0, lambda: 1.0, **bounds) == 9.0
    assert again_at(failure, 4, 0.0, 5.0, lambda: 1.0, **bounds) is None
    assert again_at(failure, 2, 0.0, 99.5, lambda: 1.0, **bounds) is None


def test_what_the_other_side_asks_to_wait_is_waited_within_the_age() -> None:
    asked = Failure("http_4xx", retry_after_s=30.0)
    assert again_at(asked, 1, 0.0, 0.0, lambda: 0.5, attempts=4, age_s=100.0) == 30.0
    assert again_at(asked, 1, 0.0, 80.0, lambda: 0.5, attempts=4, age_s=100.0) is None
    assert again_at(Failure("tls", permanent=True), 1, 0.0, 0.0, lambda: 0.0, attempts=0, age_s=0) is None
