"""Control's cookies go to no service and come from none; other cookies pass as they are."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.http.cookie import parse_cookie
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core.cookies import NAMES, sets_ours, without_ours

UNUSED = "LANGUAGE_COOKIE_NAME"
"""Django's own, for a choice of language that the pages don't offer."""


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (b"a=1; b=2", b"a=1; b=2"),
        (b"mc_session=s", b""),
        (b"a=1; mc_session=s; b=2", b"a=1; b=2"),
        (b"mc_session=s; a=1", b"a=1"),
        (b"a=1;mc_csrf=t;b=2", b"a=1;b=2"),
        (b"__Host-mc_session=s; __Host-mc_csrf=t; a=1", b"a=1"),
        (b" mc_session = s ;a=1", b"a=1"),
        (b"=mc_session=s; a=1", b"a=1"),
        (b'a="x; mc_session=s"; b=2', b'a="x; b=2'),
        (b"mc_session; a=1", b"a=1"),
        (b"mc_sessions=s; my_mc_session=s; MC_SESSION=s; a=mc_session", None),
        (b"a=b=mc_session=c", None),
        (b"", b""),
    ],
)
def test_our_pairs_are_taken_out_and_the_rest_stays_as_it_was(value: bytes, left: bytes | None) -> None:
    assert without_ours(value) == (value if left is None else left)


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        (b"mc_session=s; Path=/", True),
        (b"mc_csrf=; Max-Age=0", True),
        (b"__Host-mc_session=s; Secure; Path=/", True),
        (b"  mc_session\t= s", True),
        (b"=mc_session=s", True),
        (b"mc_session", True),
        (b"a=mc_session=s; Path=/", False),
        (b"a=1; Path=/mc_session", False),
        (b"a=1; mc_session=s", False),
        (b"\xa0mc_session=s", True),
        (b"= \x85mc_session\x0b=s", True),
        (b"MC_SESSION=s", False),
        (b"", False),
    ],
)
def test_a_service_does_not_set_our_cookies(value: bytes, ours: bool) -> None:
    assert sets_ours(value) is ours


def test_the_names_are_those_that_control_uses() -> None:
    used = {getattr(settings, name) for name in dir(settings) if name.endswith("COOKIE_NAME") and name != UNUSED}
    assert {name.encode() for name in used} <= NAMES


PIECES = st.lists(
    st.sampled_from(
        [b"mc_session", b"mc_csrf", b"__Host-", b"=", b";", b" ", b"a", b'"', b",", b"\t", b"\xa0", b"\x85", b"\x1c"]
    )
)


@given(PIECES.map(b"".join))
def test_no_reader_of_what_is_left_finds_a_cookie_of_ours(value: bytes) -> None:
    found = parse_cookie(without_ours(value).decode("latin-1"))
    assert not {name.encode() for name in found} & NAMES
