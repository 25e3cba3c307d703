"""The one grammar of sentences that move money. Pure.

A payment is an affirmative imperative of the caller, to be carried out now, of which every word is
understood: the whole sentence has to be derived by the grammar, or it orders nothing and nexus asks
back. So a negation, a condition, a date, a quotation, a second recipient or any word that nobody
thought of stops a payment by not being in the grammar; there is no list of what to look out for.
The name is the one place where any word could stand, so there alone is a list: words that change an
order ("pay never 25 AZR") or name nobody in particular are names only as ``@never``.

    payment   = opening* (send | pay | make | put) closing* ["!" | "."]
    send      = verb money "to" name            "send 25 AZR to thandi"
    pay       = verb name money                 "pay thandi 25 AZR"
    make      = "make a" ("payment" | "transfer") "of" money "to" name
    put       = "put" money ("in" | "into") name "'s account"
    money     = number currency | sign number | code number
    name      = "@" account | a word that is nothing else in such a sentence
    number    = digits of one writing ("25", "1,000.50", "2k") or words ("a hundred and ten")
    closing   = "please" | "now" | … | "for" purpose
    purpose   = ["the" | "my" | …] word of a fixed list

The classifier (services.nexus.model) names the intent first; both have to agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from services.kit.accounts import parse_account
from services.nexus.lexicon import (
    CURRENCIES,
    CURRENCY_OF,
    FUNCTION_WORDS,
    INDEFINITE,
    KIN,
    NAMES_IN_LY,
    NOT_NAMES,
    PURPOSES,
    SYMBOLS,
)
from services.nexus.numerals import is_numeral, read_words

_VERB: Final = "send|pay|transfer|wire|give|remit|tip"
_DIGITS: Final = r"(?:0|[1-9][0-9]{0,11}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,3})(?:\.[0-9]{1,2})?k?"
_WORDS: Final = r"[a-z]+(?:[ -][a-z]+){0,11}?"
_CURRENCY: Final = "|".join(sorted({*CURRENCY_OF, "swiss francs?"}, key=len, reverse=True))
_SIGN: Final = f"[{''.join(SYMBOLS)}]"
_MONEY: Final = (
    rf"(?:(?P<sign>{_SIGN}|R(?=[0-9]))(?P<priced>{_DIGITS})"
    rf"|(?P<code>{'|'.join(CURRENCIES)}) (?P<counted>{_DIGITS})"
    rf"|(?P<digits>{_DIGITS})(?: ?(?P<unit>{_CURRENCY})|(?P<after>{_SIGN}))"
    rf"|(?P<words>{_WORDS}) (?P<coin>{_CURRENCY}))"
)
_LETTER: Final = "[a-zà-öø-ÿ]"
_NAME: Final = (
    rf"(?P<name>(?:my friend )?(?:{_LETTER}+(?:['-]{_LETTER}+)*"
    rf"|@{_LETTER}(?:(?:{_LETTER}|[0-9._'-]){{0,61}}(?:{_LETTER}|[0-9]))?))"
)
_ACCOUNT: Final = "(?:'s account)?"
_OPENING: Final = (
    "(?:please|kindly|now|ok|okay|hi|hey|hello|(?:hi |hey |hello )?nexus|can you|could you|would you please)"
)
_CLOSING: Final = (
    "please|now|right now|right away|immediately|today|thanks|thank you|from my account"
    rf"|for (?:(?:the|my|our|a|some) )?(?P<memo>(?:{'|'.join(sorted(PURPOSES))}))"
)


def _grammar(*forms: str) -> tuple[re.Pattern[str], ...]:
    """Each form as a whole sentence: its openings and closings are the same."""
    return tuple(
        re.compile(rf"(?:{_OPENING},? )*{form}(?:,? (?:{_CLOSING})){{0,4}}[.!]?", re.IGNORECASE) for form in forms
    )


_FORMS: Final = _grammar(
    rf"(?:{_VERB}) {_MONEY} (?:from my account )?(?:over )?to {_NAME}{_ACCOUNT}",
    rf"(?:{_VERB}) {_NAME} {_MONEY}",
    rf"make a (?:payment|transfer) of {_MONEY} to {_NAME}{_ACCOUNT}",
    rf"put {_MONEY} (?:in|into) {_NAME}'s account",
)
_ALPHABET: Final = re.compile(rf"[A-Za-zÀ-ÖØ-öø-ÿ0-9 .,!'@_{''.join(SYMBOLS)}-]*")
"""Every other sign is one that we can't know the meaning of: a quotation, a list, a look-alike letter."""

_NOBODY: Final = KIN | NOT_NAMES | CURRENCY_OF.keys() | PURPOSES | INDEFINITE | FUNCTION_WORDS
"""Words in the place of a name that name nobody in particular, or nobody that we could know."""


@dataclass(frozen=True, slots=True)
class Payment:
    """What to pay: ``amount`` is a plain decimal above 0, ``currency`` a code, ``name`` an account."""

    amount: str
    currency: str
    name: str
    memo: str = ""

    def slots(self) -> dict[str, str]:
        """The parts by name."""
        parts = {"amount": self.amount, "currency": self.currency, "name": self.name, "memo": self.memo}
        return {name: value for name, value in parts.items() if value}


def read(text: str) -> Payment | None:
    """The payment that ``text`` orders; None when it orders none, or any of it is not understood."""
    plain = " ".join(part for part in text.replace("’", "'").split(" ") if part)
    if not _ALPHABET.fullmatch(plain):
        return None
    matches = [match for form in _FORMS if (match := form.fullmatch(plain))]
    found = [_payment(match) for match in matches]
    # Two readings of one sentence are a doubt, and a doubt moves nothing.
    return found[0] if found and all(one == found[0] for one in found) else None


def _payment(match: re.Match[str]) -> Payment | None:
    part = match.groupdict()
    amount = _number(part["priced"] or part["counted"] or part["digits"] or "", part["words"] or "")
    currency = _currency(part["sign"] or part["code"] or part["after"] or part["unit"] or part["coin"])
    name = _recipient(part["name"])
    if amount is None or name is None:
        return None
    return Payment(amount, currency, name, (part["memo"] or "").lower())


def _number(digits: str, spelt: str) -> str | None:
    """The plain decimal that was written, with at most two decimals; None for zero and for what is no number."""
    if digits:
        scale = 1000 if digits[-1] in "kK" else 1
        value = Decimal(digits.rstrip("kK").replace(",", "")) * scale
    else:
        parts = spelt.lower().replace("-", " ").split()
        reading = read_words(parts)
        if reading is None or reading[1] != len(parts):
            return None
        value = reading[0]
    return format(value.normalize(), "f") if value > 0 else None


def _currency(written: str) -> str:
    last = written.lower().split()[-1]
    return "ZAR" if last == "r" else SYMBOLS.get(last) or CURRENCY_OF[last]


def _recipient(written: str) -> str | None:
    """The account that was named; None for a word that names nobody in particular. ``@name`` is always a name."""
    name = written.lower().removeprefix("my friend ")
    if name.endswith(("'s", "n't")):
        return None
    if name.startswith("@"):
        return parse_account(name[1:])
    if len(name) < 2 or name in _NOBODY:
        return None
    parts = re.split("['-]", name)
    if any(part in NOT_NAMES | FUNCTION_WORDS or is_numeral(part) for part in parts):
        return None
    if any(part.endswith("ly") and part not in NAMES_IN_LY for part in parts):  # most adverbs
        return None
    return parse_account(name)
