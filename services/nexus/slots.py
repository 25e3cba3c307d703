"""Amounts, currencies and names in a sentence, found by rule. Pure.

Rules and not a trained tagger: what may move money should be explainable and the same every time.
The marked utterances hold the rules to account (tests/unit/services).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from services.nexus.lexicon import ASK_VERBS, CURRENCY_OF, KIN, NOT_NAMES, SEND_VERBS, SYMBOLS
from services.nexus.numerals import DIGITS, is_numeral, read_digits, read_words

_TOKEN: Final = re.compile(r"@?[^\W\d_](?:[\w]|[.'’-](?=\w))*|\S", re.UNICODE)
_ANOTHER: Final = re.compile(
    r"(?:,\s*|\s+and\s+)(?!(?:also|then|pay|send|tell|ask|make|please|for)\b)[^\W\d_]+(?=\s|$)", re.IGNORECASE
)
_CODE_AFTER: Final = re.compile(r"\s?([A-Z]{3})\b")
_MEMO: Final = re.compile(
    r"\bfor\s+((?:the\s+|our\s+|my\s+)?[^\W\d_][\w' -]{1,79}?)(?=\s+(?:please|now|today|tomorrow)\b|[.,!?]|$)"
)


@dataclass(frozen=True, slots=True)
class Span:
    """Text at ``start`` to ``end`` that means ``value``."""

    start: int
    end: int
    value: str


@dataclass(frozen=True, slots=True)
class Slots:
    """What a sentence names. Amounts are plain decimals, currencies codes, names lower case."""

    amount: str | None = None
    currency: str | None = None
    to_currency: str | None = None
    name: str | None = None
    memo: str | None = None
    unclear: tuple[str, ...] = ()
    """Slots of which the sentence names several; each holds the first, and nothing should be done with it."""

    @property
    def missing(self) -> list[str]:
        """What a payment needs and the sentence does not say."""
        return [name for name in ("amount", "currency", "name") if getattr(self, name) is None]

    def found(self) -> dict[str, str]:
        """The slots that are there."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) and name != "unclear"}


def extract(text: str) -> Slots:
    """Every slot of ``text``, whatever is wanted with it."""
    amounts = list(_amounts(text))
    currencies = list(_currencies(text, amounts))
    taken = [*amounts, *currencies]
    priced = [span for span in amounts if _beside(span, currencies)] or amounts
    amount = priced[0] if priced else None
    first = _beside(amount, currencies) if amount else None
    first = first or (currencies[0] if currencies else None)
    second = next((span for span in currencies if first is not None and span.value != first.value), None)
    name = _name(text, taken)
    unclear = ["amount"] if len({span.value for span in priced}) > 1 else []
    if name is not None and _ANOTHER.match(text, name.end):
        unclear.append("name")
    return Slots(
        amount=amount.value if amount else None,
        currency=first.value if first else None,
        to_currency=second.value if second else None,
        name=name.value if name else None,
        memo=_memo(text, name, taken),
        unclear=tuple(unclear),
    )


def mask(text: str) -> str:
    """``text`` with its amounts, currencies and name replaced by placeholders, for the classifier."""
    amounts = list(_amounts(text))
    currencies = list(_currencies(text, amounts))
    name = _name(text, [*amounts, *currencies])
    marks = [(span, " _amount ") for span in amounts] + [(span, " _currency ") for span in currencies]
    if name is not None:
        marks.append((name, " _name "))
    for span, mark in sorted(marks, key=lambda pair: -pair[0].start):
        text = text[: span.start] + mark + text[span.end :]
    return text


def _amounts(text: str) -> Iterator[Span]:
    covered = -1
    for match in DIGITS.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if re.search(r"[\w.,]$", before) and not re.search(r"(?:^|[\W\d_])[A-Za-z]{1,3}$", before):
            continue
        if re.search(r"(?:\bnumber|\bno\.?|#|\binvoice|\border)\s*$", before, re.IGNORECASE):
            continue
        if match.start() < covered or re.match(r"(?:st|nd|rd|th|am|pm|%|:\d|/\d)", after, re.IGNORECASE):
            continue
        if re.search(r"(?:^|\s)[-−]\s?$", before):
            continue  # a negative amount is no amount to send
        value = read_digits(match.group())
        if value is not None:
            covered = match.end()
            yield Span(match.start(), match.end(), plain(value))
    words = list(re.finditer(r"[^\W\d_]+", text))
    lower = [word.group().lower() for word in words]
    index = 0
    while index < len(words):
        found = read_words(lower[index : index + 12])
        if found is None or (lower[index] == "one" and found[1] == 1 and not _before_currency(lower, index + 1)):
            index += 1
            continue
        value, used = found
        last = index + used - 1
        yield Span(words[index].start(), words[last].end(), plain(value))
        index = last + 1


def _before_currency(lower: list[str], index: int) -> bool:
    return index < len(lower) and lower[index] in CURRENCY_OF


def _currencies(text: str, amounts: list[Span]) -> Iterator[Span]:
    found: list[Span] = [Span(at, at + 1, SYMBOLS[sign]) for at, sign in enumerate(text) if sign in SYMBOLS]
    for match in re.finditer(r"[^\W\d_]+", text):
        word = match.group()
        code = CURRENCY_OF.get(word.lower())
        if code is not None and not (word.lower() == "pound" and re.match(r"\s+sterling", text[match.end() :])):
            start = match.start()
            if code == "CHF" and (swiss := re.search(r"swiss\s+$", text[:start], re.IGNORECASE)):
                start = swiss.start()
            found.append(Span(start, match.end(), code))
    for amount in amounts:
        # A code we do not know, right beside the amount and in capitals, is a currency all the same.
        match_after = _CODE_AFTER.match(text, amount.end)
        if match_after and all(span.start != match_after.start(1) for span in found):
            found.append(Span(match_after.start(1), match_after.end(1), match_after.group(1)))
        if re.search(r"(?:^|\W)R$", text[: amount.start]):
            found.append(Span(amount.start - 1, amount.start, "ZAR"))
    yield from sorted(found, key=lambda span: span.start)


def _beside(amount: Span, currencies: list[Span]) -> Span | None:
    """The currency written right after the amount, or right before it."""
    after = (span for span in currencies if 0 <= span.start - amount.end <= 1)
    before = (span for span in currencies if 0 <= amount.start - span.end <= 1)
    return next(after, None) or next(before, None)


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    text: str

    @property
    def lower(self) -> str:
        return self.text.lower().replace("’", "'")


def _name(text: str, taken: list[Span]) -> Span | None:
    """Whom it is about: after ``to``, ``from`` or ``with``, else the object of a verb, else the subject who owes."""
    words = [_Word(match.start(), match.end(), match.group()) for match in _TOKEN.finditer(text)]
    free = [not any(span.start < word.end and word.start < span.end for span in taken) for word in words]

    def at(index: int) -> Span | None:
        return _name_at(text, words, free, index)

    for cues in ({"to", "from", "with", "by", "of"}, {"into", "in"}):
        for index, word in enumerate(words):
            if word.lower in cues and (found := at(index + 1)):
                return found
    for verbs in (SEND_VERBS, ASK_VERBS):
        for index, word in enumerate(words):
            if word.lower in verbs:
                skip = 2 if index + 1 < len(words) and words[index + 1].lower in {"back", "off", "up"} else 1
                if found := at(index + skip):
                    return found
    for index in range(len(words)):
        following = [other.lower for other in words[index + 1 : index + 3]]
        owing = following[:1] in (["owes"], ["owe"]) or following in (["send", "me"], ["paid", "me"], ["pay", "me"])
        if owing and (found := at(index)):
            return found
    for index, word in enumerate(words[:-2]):
        if word.lower == "need" and words[index + 2].lower == "to" and (found := at(index + 1)):
            return found
    for index, word in enumerate(words[:-1]):
        capital = words[index + 1].text[:1].isupper()
        if capital and word.lower in {"for", "pay"} and (found := at(index + 1)):
            return found
    return next((found for index, word in enumerate(words) if word.text.startswith("@") and (found := at(index))), None)


def _name_at(text: str, words: list[_Word], free: list[bool], index: int) -> Span | None:
    """The name that starts at word ``index``, past ``my`` and a kin word that a name follows."""
    kin: _Word | None = None
    while index < len(words) and words[index].lower in {"my", "the", "our", "friend"} | KIN:
        if words[index].lower in KIN:
            kin = words[index]
        index += 1
    if index >= len(words) or not _can_be_name(words[index], free[index]):
        return None if kin is None else Span(kin.start, kin.end, kin.lower)
    last = index
    # A surname is taken along only when both are written as names: "to Thandi Mokoena", not "to thandi rent".
    while (
        last + 1 < len(words)
        and last - index < 2
        and words[last].text[:1].isupper()
        and words[last + 1].text[:1].isupper()
        and _can_be_name(words[last + 1], free[last + 1])
        and text[words[last].end : words[last + 1].start].isspace()
    ):
        last += 1
    parts = [re.sub(r"'s?$", "", word.lower).lstrip("@") for word in words[index : last + 1]]
    end = words[last].end - (2 if words[last].lower.endswith("'s") else 0)
    value = "-".join(part for part in parts if part)
    return Span(words[index].start, end, value) if value else None


def _can_be_name(word: _Word, free: bool) -> bool:
    bare = re.sub(r"'s?$", "", word.lower).lstrip("@")
    if not free or not bare[:1].isalpha() or len(bare) > 40:
        return False
    return bare not in NOT_NAMES and not is_numeral(bare) and (len(bare) > 1)


def _memo(text: str, name: Span | None, taken: list[Span]) -> str | None:
    """What it is for: the words after ``for``, unless they are whom or how much."""
    for match in _MEMO.finditer(text):
        start, end = match.span(1)
        if any(span.start < end and start < span.end for span in ([name] if name else []) + taken):
            continue
        return match.group(1).strip()
    return None


def plain(value: Decimal) -> str:
    """``25`` or ``1000.5``, never an exponent."""
    return format(value.normalize(), "f")
