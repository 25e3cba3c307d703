"""Patterns over event types mean what AMQP topics mean, in memory and in the database alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.events.patterns import PatternError, domains, literal_prefix, matches, segments, to_regex

WORD = st.sampled_from(["a", "b", "ab", "half-opened", "x_1", "9"])
TYPE = st.lists(WORD, min_size=1, max_size=6)
PATTERN = st.lists(st.one_of(WORD, st.sampled_from(["*", "#"])), min_size=1, max_size=6).filter(
    lambda parts: parts.count("#") <= 3
)


def naive(pattern: list[str], event: list[str]) -> bool:
    """The definition, word for word."""
    if not pattern:
        return not event
    if pattern[0] == "#":
        return any(naive(pattern[1:], event[skip:]) for skip in range(len(event) + 1))
    return bool(event) and pattern[0] in {"*", event[0]} and naive(pattern[1:], event[1:])


@given(PATTERN, TYPE)
def test_matching_agrees_with_the_definition(pattern: list[str], event: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(event)) == naive(pattern, event)


@given(PATTERN, TYPE)
def test_every_match_starts_with_the_literal_prefix(pattern: list[str], event: list[str]) -> None:
    if naive(pattern, event):
        assert ".".join(event).startswith(literal_prefix(".".join(pattern)))


@given(PATTERN, TYPE)
def test_a_match_lies_in_one_of_the_patterns_domains(pattern: list[str], event: list[str]) -> None:
    found = domains([".".join(pattern)])
    if naive(pattern, event) and found is not None:
        assert event[0] in found


@pytest.mark.parametrize(
    ("pattern", "event", "expected"),
    [
        ("business.transaction.recorded", "business.transaction.recorded", True),
        ("business.*.recorded", "business.transaction.recorded", True),
        ("business.*", "business.transaction.recorded", False),
        ("business.#", "business.transaction.recorded", True),
        ("business.#", "business", True),
        ("#.recorded", "business.transaction.recorded", True),
        ("#", "system.instance.healthy", True),
        ("system.#", "systems.instance.healthy", False),
    ],
)
def test_examples(pattern: str, event: str, expected: bool) -> None:
    assert matches(pattern, event) is expected


@pytest.mark.parametrize("pattern", ["", ".", "a..b", "a.b.", "A.b", "a b", "a.**", "#.#.#.#", "a." * 80, "é", "a\n"])
def test_what_is_no_pattern_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"\w"):
        segments(pattern)


def test_a_dot_in_a_pattern_is_a_dot() -> None:
    assert re.match(to_regex("a.b"), "axb") is None


def test_three_wildcards_of_any_length_cost_no_explosion() -> None:
    assert not matches("#.x.#.x.#.y", ".".join(["x"] * 60))
