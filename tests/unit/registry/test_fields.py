"""Lists of words: edited as text, stored as a list, refused when they are not."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from apps.registry.fields import MOST, WordsChoice, WordsField, WordsInput

hosts = WordsField(pattern="[a-z.]+", hint="Use letters.")
methods = WordsField(words=["GET", "PUT"])
needed = WordsField(words=["a", "b"], blank=False)


@given(st.lists(st.text("abc.", min_size=1), max_size=5))
def test_what_is_shown_reads_back_as_what_was_stored(words: list[str]) -> None:
    field = WordsInput()
    assert field.to_python(field.prepare_value(words)) == words
    assert not field.has_changed(words, field.prepare_value(words))


def test_words_are_separated_by_commas_spaces_or_lines() -> None:
    assert WordsInput().to_python(" a.org,b.org\nc.org  d.org, ") == ["a.org", "b.org", "c.org", "d.org"]
    assert WordsInput().to_python(None) == []


def test_ticks_come_in_the_order_in_which_they_are_offered() -> None:
    field = WordsChoice(choices=[("key", "key"), ("jwt", "jwt")])
    assert field.clean(["jwt", "key"]) == ["key", "jwt"]
    assert not field.has_changed(["key", "jwt"], ["jwt", "key"]) and field.has_changed(["key"], [])


@pytest.mark.parametrize("value", [["a"], ["a", "b.c"], []])
def test_good_lists_are_taken(value: list[str]) -> None:
    hosts.clean(value, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (hosts, ["A"]),
        (hosts, ["a\n"]),
        (hosts, ["a", "a"]),
        (hosts, "a"),
        (hosts, {"a": 1}),
        (hosts, [None]),
        (hosts, [""]),
        (hosts, ["a" * n for n in range(1, MOST + 2)]),
        (methods, ["POST"]),
        (needed, []),
    ],
)
def test_bad_lists_are_refused(field: Any, value: Any) -> None:
    with pytest.raises(ValidationError):
        field.clean(value, None)
