from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.money import MAX_MINOR, format_amount, parse_amount, parse_currency


@pytest.mark.parametrize(
    ("value", "minor"),
    [("25", 2500), ("25.1", 2510), ("25.10", 2510), (25, 2500), (25.1, 2510), (0.01, 1), ("0.010", 1), (25.0, 2500)],
)
def test_text_and_numbers_mean_the_same_amount(value: Any, minor: int) -> None:
    assert parse_amount(value) == minor


@pytest.mark.parametrize(
    "value",
    ["0", "0.00", 0, -1, "-1", "+1", "1e3", 1e16, "0.001", 0.001, "1,000", "", "NaN", float("nan"), float("inf"),
     "1000000000000", True, None, [], {}, "٢٥", "1.", ".5", "9" * 400],
)  # fmt: skip
def test_what_is_no_amount_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_amount(value)


@given(st.integers(1, MAX_MINOR))
def test_an_amount_survives_the_way_out_and_back_as_text_and_as_a_json_number(minor: int) -> None:
    assert parse_amount(format_amount(minor)) == minor
    assert parse_amount(float(format_amount(minor))) == minor


@given(st.integers(-(10**18), 10**18))
def test_a_balance_is_written_exactly(minor: int) -> None:
    whole, _, part = format_amount(minor).lstrip("-").partition(".")
    assert (int(whole) * 100 + int(part)) * (-1 if minor < 0 else 1) == minor


def test_a_currency_has_one_form() -> None:
    assert parse_currency("azr") == parse_currency(" AZR ") == "AZR"


@pytest.mark.parametrize("code", ["", "AZ", "AAA", "XTS", "ZZZ", "AZRR", "A1R", "€€€", "аzr"])
def test_what_can_not_be_a_currency_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="currency"):
        parse_currency(code)
