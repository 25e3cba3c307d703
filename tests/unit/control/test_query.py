"""The bounds of query strings and JSON bodies."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rest_framework.exceptions import ParseError

from apps.lib import query
from apps.lib.rest import Json


@pytest.mark.parametrize(
    ("pairs", "word"),
    [
        ([("q", " ".join(["a"] * 21))], "words"),
        ([("search", "a\tb " * 2000)], "longer"),
        ([("cursor", "x" * 2001)], "longer"),
        ([("x" * 101, "")], "name"),
        ([("a", "b")] * 101, "parameters"),
        ([("a", "b\x00")], "NUL"),
        ([("a\x00", "b")], "NUL"),
        ([("q", " ".join(["a"] * 20)), ("cursor", "x" * 2000)], ""),
        ([], ""),
    ],
)
def test_what_is_not_read_is_named(pairs: list[tuple[str, str]], word: str) -> None:
    found = query.refusal(pairs)
    assert (word in found) if word else found == ""


def parse(text: str) -> Any:
    return Json().parse(io.BytesIO(text.encode()), "application/json", {})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 21 + "]" * 21, id="deep lists"),
        pytest.param('{"a":' * 900 + "1" + "}" * 900, id="very deep objects"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="deeper than the parser"),
        pytest.param('{"\\u0000": "a"}', id="a NUL in a name"),
        pytest.param('{"a": {"\\ud800": 1}}', id="half a pair as a name"),
        pytest.param('[{"a": {"\\udfff": []}}]', id="half a pair within"),
        pytest.param("NaN", id="no number"),
        pytest.param("1" * 5000, id="a number that can't be read"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_body_that_nothing_can_keep_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


def test_what_is_well_formed_is_read() -> None:
    assert parse('{"a": ["\\ud83d\\ude80", 1, null, {"b": []}]}') == {"a": ["🚀", 1, None, {"b": []}]}
