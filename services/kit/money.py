"""Amounts of money: whole minor units inside, decimal text outside, never a float.

Every currency has two decimals here, and an amount stays below 10^12: within that, a JSON number
survives the trip through a double exactly, so ``25.1`` and ``"25.1"`` mean the same.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

DECIMALS: Final = 2
MAX_MINOR: Final = 10 ** (12 + DECIMALS) - 1

_AMOUNT: Final = re.compile(r"(?:0|[1-9]\d{0,11})(?:\.(\d{1,2})0*)?", re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_ACCOUNT: Final = re.compile(r"[^\W\d_][\w.'-]{0,62}")


def parse_amount(value: Any) -> int:
    """Minor units of ``"25"``, ``"25.10"``, 25 or 25.1; ValueError for anything else, zero and below included."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('An amount is a decimal such as "25.00" or 25.')
    raw = repr(value) if isinstance(value, float) else str(value)[:32]
    match = _AMOUNT.fullmatch(raw.strip())
    if match is None:
        raise ValueError("An amount is a plain decimal above 0 and below 10^12 with at most two decimals.")
    whole, _, _ = raw.strip().partition(".")
    minor = int(whole) * 10**DECIMALS + int((match.group(1) or "").ljust(DECIMALS, "0"))
    if minor == 0:
        raise ValueError("An amount must be above 0.")
    return minor


def format_amount(minor: int) -> str:
    """``2510`` as ``"25.10"``; the sign stays in front."""
    whole, part = divmod(abs(minor), 10**DECIMALS)
    return f"{'-' if minor < 0 else ''}{whole}.{part:0{DECIMALS}d}"


def parse_currency(value: str) -> str:
    """Three letters (the form of ISO 4217), in upper case; ValueError otherwise."""
    code = value.strip().upper()
    if not _CURRENCY.fullmatch(code):
        raise ValueError("A currency is three letters, such as AZR.")
    return code


def parse_account(value: str) -> str:
    """An account's name in its one form: NFKC, lower case; ValueError when it can't be a name."""
    name = unicodedata.normalize("NFKC", value).strip().lower()
    if not _ACCOUNT.fullmatch(name):
        raise ValueError(
            "An account name starts with a letter and has letters, digits, '.', '-', '_' or ''' (63 at most)."
        )
    return name
