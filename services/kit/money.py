"""Amounts of money: whole minor units inside, decimal text outside, never a float.

Every currency has two decimals here, and an amount stays below 10^12: within that, a JSON number
survives the trip through a double exactly, so ``25.1`` and ``"25.1"`` mean the same.
"""

from __future__ import annotations

import re
from typing import Any, Final

DECIMALS: Final = 2
MAX_MINOR: Final = 10 ** (12 + DECIMALS) - 1

MAX_BALANCE: Final = 10**16
"""Minor units that an account may hold or owe: far above anything meant, far below what a column overflows at."""

CURRENCIES: Final = frozenset(
    re.findall(
        "[A-Z]{3}",
        """
        AZR
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP
        CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG
        HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL
        MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR
        RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD
        TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
        """,
    )
)
"""AZR, the fleet's own, and the active national currencies of ISO 4217."""

_AMOUNT: Final = re.compile(r"(?:0|[1-9]\d{0,11})(?:\.(\d{1,2})0*)?", re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)


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
    """The code of a known currency, in upper case; ValueError otherwise."""
    code = value.strip().upper()
    if not _CURRENCY.fullmatch(code):
        raise ValueError("A currency is three letters, such as AZR.")
    if code not in CURRENCIES:
        raise ValueError(f"{code} is no currency that is known here.")
    return code
