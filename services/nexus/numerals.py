"""Numbers as people write them: ``1,000.50``, ``25k``, ``twenty five``, ``a hundred and ten``. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from services.nexus import lexicon

UNITS: Final = {word: value for value, word in enumerate(lexicon.UNITS)}
TENS: Final = {word: value * 10 for value, word in enumerate(lexicon.TENS, 2)}
SCALES: Final = {"hundred": 100, "thousand": 1_000, "grand": 1_000, "million": 1_000_000}
SUFFIXES: Final = {"k": 1_000, "m": 1_000_000}

DIGITS: Final = re.compile(
    r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d+|,\d{1,2}(?![\d,]))?(?:\s?(?P<suffix>[km])\b)?", re.ASCII | re.IGNORECASE
)
"""Digits with thousands separators and decimals; a comma before the last one or two digits is a decimal comma."""


def read_digits(text: str) -> Decimal | None:
    """The value of what ``DIGITS`` matched."""
    raw = text.strip().lower()
    scale = SUFFIXES.get(raw[-1:], 1)
    if scale != 1:
        raw = raw[:-1].strip()
    if re.fullmatch(r"\d+,\d{1,2}", raw):
        raw = raw.replace(",", ".")
    try:
        return Decimal(raw.replace(",", "")) * scale
    except InvalidOperation:
        return None


def is_numeral(word: str) -> bool:
    """Whether ``word`` can begin a number in words."""
    return word in UNITS or word in TENS or word in {"hundred", "thousand"}


def read_words(words: Sequence[str]) -> tuple[Decimal, int] | None:
    """The number at the start of lower-case ``words`` and how many of them it takes; None when there is none."""
    total = current = used = 0
    least = max(SCALES.values()) * 10  # thousands and millions come in falling order
    kind = ""
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word in TENS and kind in {"", "scale", "and"}:
            current, kind = current + TENS[word], "tens"
        elif word in UNITS and (kind in {"", "scale", "and"} or (kind == "tens" and 0 < UNITS[word] < 10)):
            current, kind = current + UNITS[word], "unit"
        elif word == "hundred" and (kind == "" or (kind == "unit" and 0 < current < 20)):
            current, kind = max(current, 1) * 100, "scale"
        elif word in SCALES and word != "hundred" and SCALES[word] < least and _counts(word, current, kind):
            least = SCALES[word]
            total, current, kind = total + max(current, 1) * least, 0, "scale"
        elif word == "and" and kind == "scale" and (following in UNITS or following in TENS):
            kind = "and"
            continue
        elif word == "a" and kind == "" and following in SCALES:
            current, kind = 1, "unit"
            continue
        else:
            break
        used = position + 1
    return (Decimal(total + current), used) if used else None


def _counts(scale: str, current: int, kind: str) -> bool:
    """Whether ``scale`` has something to count; bare it may only begin a number, and "grand" not even that."""
    return current > 0 if kind else scale != "grand"
