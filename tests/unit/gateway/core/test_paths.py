from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core.paths import normalise, readings
from services.kit.problem import Refused


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"/a/b", "/a/b"),
        (b"/a/b/", "/a/b/"),
        (b"//a///b", "/a/b"),
        (b"/a/./b/../c", "/a/c"),
        (b"/a/b/..", "/a/"),
        (b"/a/.", "/a/"),
        (b"/../../etc", "/etc"),
        (b"/%61%2e%2E/x", "/a../x"),
        (b"/a/%2e%2e/b", "/b"),
        (b"/a%20b%c3%a9", "/a%20b%C3%A9"),
        (b"/.well-known/jwks.json", "/.well-known/jwks.json"),
        (b"/a;v=1/b", "/a;v=1/b"),
    ],
)
def test_paths_have_one_form(raw: bytes, path: str) -> None:
    assert normalise(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"*",
        b"a/b",
        b"/a%2fb",
        b"/a%5Cb",
        b"/a%00",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/a b",
        b"/a\\b",
        b"/\xc3\xa9",
        b"/a/..;/b",
        b"/.;x/b",
        b"/a#b",
        b"/<a>",
        b'/"',
        b"/a%2",
        b"/%%41",
    ],
)
def test_ambiguous_paths_are_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        normalise(raw)
    assert (refused.value.problem.status, refused.value.problem.failure) == (400, "path_invalid")


@given(st.text(alphabet=string.ascii_letters + "/.%;25eEfF" + string.digits, max_size=40))
def test_normalising_twice_changes_nothing_and_no_dot_segment_survives(text: str) -> None:
    try:
        path = normalise(b"/" + text.encode())
    except Refused:
        return
    assert normalise(path.encode()) == path
    assert not {".", ".."} & set(path.split("/")) and "//" not in path


@pytest.mark.parametrize(
    ("path", "others"),
    [
        ("/a/b", set()),
        ("/a/%40b", {"/a/@b"}),
        ("/a;x/b;y=1", {"/a/b"}),
        ("/a%3Bx", {"/a;x", "/a"}),
        ("/;x/a", {"/a"}),
        ("/a%25;x", {"/a%;x", "/a%", "/a%25"}),
    ],
)
def test_how_others_read_a_path(path: str, others: set[str]) -> None:
    assert readings(path) >= others
    assert bool(readings(path)) == bool(others)


def test_a_dot_segment_behind_an_escaped_parameter_is_refused() -> None:
    with pytest.raises(Refused):
        readings("/a/..%3Bx/b")


@given(st.text(alphabet="aB/.%;25eEfF34", max_size=40))
def test_no_reading_has_dot_segments(text: str) -> None:
    try:
        found = readings(normalise(b"/" + text.encode()))
    except Refused:
        return
    assert not any({".", ".."} & set(other.split("/")) for other in found)
