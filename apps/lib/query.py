"""What a query string may be, whatever reads it. Pure: pairs in, a sentence out.

Each view checks its own parameters' meaning. This bounds their cost and refuses what no database
takes, in one place, so that a parameter that some library adds is bounded as well.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_FIELDS = 100
LONGEST_NAME = 100
LONGEST_VALUE = 2_000
MOST_WORDS = 20
"""Words of a search: each is a condition of its own per column, and SQLite nests at most 1,000."""
SEARCHES = frozenset({"q", "search"})


def refusal(pairs: Iterable[tuple[str, str]]) -> str:
    """Why these parameters are not read, as a sentence for a person; empty when they are."""
    for number, (name, value) in enumerate(pairs, 1):
        if number > MOST_FIELDS:
            return f"There are more than the {MOST_FIELDS} parameters that are read."
        if len(name) > LONGEST_NAME:
            return f"The name of a parameter is longer than {LONGEST_NAME} characters."
        if len(value) > LONGEST_VALUE:
            return f"The parameter {name!r} is longer than {LONGEST_VALUE:,} characters."
        if "\x00" in name or "\x00" in value:
            return "A parameter holds a NUL, which no text does."
        if name in SEARCHES and len(value.split()) > MOST_WORDS:
            return f"The search has more than the {MOST_WORDS} words that are looked for."
    return ""
