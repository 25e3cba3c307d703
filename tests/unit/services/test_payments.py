"""Which sentences move money: a few forms, and nothing else however near it comes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.nexus.payments import Payment, read

HERE = Path(__file__).parent
FILES = ("no_payments.txt", "held_out.txt")
"""Written beside the grammar, and by somebody who had not read it."""


def sentences(name: str) -> list[str]:
    """The sentences of a file, without its headings."""
    lines = (HERE / name).read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line and not line.startswith(("# ", "== "))]


@pytest.mark.parametrize(
    ("text", "payment"),
    [
        ("send 25 AZR to thandi", Payment("25", "AZR", "thandi")),
        ("Send 25AZR to Thandi!", Payment("25", "AZR", "thandi")),
        ("SEND 10 AZR TO BOB", Payment("10", "AZR", "bob")),
        ("pay lerato 1,000.50 dollars", Payment("1000.5", "USD", "lerato")),
        ("please send twenty-five euros to maria.", Payment("25", "EUR", "maria")),
        ("can you wire 1,000 USD to john", Payment("1000", "USD", "john")),
        ("hey nexus, please give ayanda 10 bucks, thanks", Payment("10", "USD", "ayanda")),
        ("send R250 to nomsa", Payment("250", "ZAR", "nomsa")),
        ("send €9.99 to sofia today", Payment("9.99", "EUR", "sofia")),
        ("send 45£ to luis now", Payment("45", "GBP", "luis")),
        ("transfer 2k azr over to @sipho_2", Payment("2000", "AZR", "sipho_2")),
        ("send two thousand three hundred and five rand to pieter for rent", Payment("2305", "ZAR", "pieter", "rent")),
        ("put 55 AZR in mpho’s account", Payment("55", "AZR", "mpho")),
        ("make a payment of 350 ZAR to pieter", Payment("350", "ZAR", "pieter")),
        ("send 25 AZR to my friend sizwe", Payment("25", "AZR", "sizwe")),
        ("send AZR 25 to thandi", Payment("25", "AZR", "thandi")),
        ("pay thandi ZAR 1,000.50 for rent", Payment("1000.5", "ZAR", "thandi", "rent")),
        ("transfer 100 AZR from my account to sipho", Payment("100", "AZR", "sipho")),
        ("send 25 AZR to @daily", Payment("25", "AZR", "daily")),
        ("send 25 AZR to o'brien from my account", Payment("25", "AZR", "o'brien")),
        ("send 25 swiss francs to Zoë for the concert please", Payment("25", "CHF", "zoë", "concert")),
        ("send  25  AZR  to  thandi ", Payment("25", "AZR", "thandi")),
    ],
)
def test_a_plain_order_is_a_payment(text: str, payment: Payment) -> None:
    assert read(text) == payment


@pytest.mark.parametrize("text", [line for name in FILES for line in sentences(name)])
def test_no_other_sentence_is(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize("name", FILES)
def test_there_are_hundreds_of_such_sentences_in_many_classes(name: str) -> None:
    text = (HERE / name).read_text(encoding="utf-8")
    assert len(sentences(name)) >= 300
    assert text.count("\n== ") >= 12


@given(st.text(max_size=500))
def test_any_text_is_read_without_failing(text: str) -> None:
    assert read(text) is None or isinstance(read(text), Payment)


WORDS = sorted({word for line in sentences("no_payments.txt") for word in line.split()})


@given(st.integers(0, 5), st.sampled_from(WORDS) | st.text(min_size=1, max_size=8))
def test_a_word_more_anywhere_changes_nothing_or_stops_it(place: int, word: str) -> None:
    words = ["send", "25", "AZR", "to", "thandi"]
    assert read(" ".join([*words[:place], word, *words[place:]])) in {None, Payment("25", "AZR", "thandi")}


@pytest.mark.parametrize("text", ["now " * 124, "send " + "one " * 120, "send " + "a-" * 240, "send 1" + ",000" * 120])
def test_a_long_sentence_costs_no_time(text: str) -> None:
    began = time.process_time()
    read(text[:500])
    assert time.process_time() - began < 0.1
