"""How a JSON document is drawn: line by line, with the faults of its schema and with what changed. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.kit.events.schema import Fault, escape

MOST_LINES = 2000
"""Lines drawn of one document; REST gives all of it."""
LONGEST = 2000
"""Characters drawn of one value."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a document: what stands in it, and what its schema has against it."""

    level: int
    text: str
    pointer: str
    fault: str = ""


def lines(value: Any, faults: tuple[Fault, ...] = ()) -> list[Line]:
    """``value`` as indented JSON, at most MOST_LINES lines of it, each fault beside the line it is about.

    What a fault names and the document does not have (a missing member's parent) is marked at what holds it.
    """
    said: dict[str, list[str]] = {}
    for fault in faults:
        said.setdefault(fault.pointer, []).append(fault.expected)
    drawn: list[Line] = []
    for level, text, pointer in _walk(value, "", 0, ""):
        if len(drawn) == MOST_LINES:
            drawn.append(Line(level, "…", ""))
            break
        drawn.append(Line(level, text, pointer, "; ".join(said.pop(pointer, ()))))
    if said and drawn:
        # A pointer that was cut short, or one into what is not drawn.
        rest = "; ".join(f"{pointer}: {', '.join(words)}" for pointer, words in said.items())
        first = drawn[0]
        drawn[0] = Line(first.level, first.text, first.pointer, "; ".join(filter(None, (first.fault, rest))))
    return drawn


def _walk(value: Any, pointer: str, level: int, name: str, comma: str = "") -> Iterator[tuple[int, str, str]]:
    """Level, text and pointer of each line. A closing bracket has a pointer that no fault names."""
    before = f"{_text(name)}: " if name or pointer.endswith("/") else ""
    if isinstance(value, Mapping) and value:
        yield level, before + "{", pointer
        last = len(value) - 1
        for n, (key, member) in enumerate(value.items()):
            yield from _walk(member, f"{pointer}/{escape(str(key))}", level + 1, str(key), "," if n < last else "")
        yield level, "}" + comma, f"{pointer}/…"
    elif isinstance(value, list) and value:
        yield level, before + "[", pointer
        last = len(value) - 1
        for n, item in enumerate(value):
            yield from _walk(item, f"{pointer}/{n}", level + 1, "", "," if n < last else "")
        yield level, "]" + comma, f"{pointer}/…"
    else:
        yield level, before + _text(value) + comma, pointer


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


@dataclass(frozen=True, slots=True)
class Change:
    """One place where two documents differ. ``kind``: added, removed or changed."""

    pointer: str
    kind: str
    before: str = ""
    after: str = ""


def diff(before: Any, after: Any) -> list[Change]:
    """Where ``after`` differs from ``before``, in the order of the documents; empty when they are the same.

    Members are compared by name and items by number; True is not 1, as in JSON. At most MOST_LINES changes.
    """
    found = []
    for change in _changes(before, after, ""):
        if len(found) == MOST_LINES:
            break
        found.append(change)
    return found


def _changes(before: Any, after: Any, pointer: str) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            place = f"{pointer}/{escape(str(key))}"
            if key not in after:
                yield Change(place, "removed", before=_text(before[key]))
            elif key not in before:
                yield Change(place, "added", after=_text(after[key]))
            else:
                yield from _changes(before[key], after[key], place)
    elif isinstance(before, list) and isinstance(after, list):
        for n in range(max(len(before), len(after))):
            place = f"{pointer}/{n}"
            if n >= len(after):
                yield Change(place, "removed", before=_text(before[n]))
            elif n >= len(before):
                yield Change(place, "added", after=_text(after[n]))
            else:
                yield from _changes(before[n], after[n], place)
    elif isinstance(before, bool) is not isinstance(after, bool) or before != after:
        yield Change(pointer, "changed", _text(before), _text(after))
