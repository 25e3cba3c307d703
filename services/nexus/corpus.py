"""The utterance file: sections of sentences with marked slots. Pure but for reading its own file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("utterances.txt")
OUT_OF_SCOPE = "out_of_scope"
ACTING = frozenset({"send_money"})
"""Intents that move money; the model must be surer of them."""

_MARK = re.compile(r"\[([^\]]+)\]\((\w+)\)")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence, what is meant by it, and its slots as they were written."""

    intent: str
    text: str
    slots: dict[str, str]


def load(path: Path = FILE) -> list[Utterance]:
    """Every utterance of ``path``; ValueError names a line that stands outside of a section."""
    found: list[Utterance] = []
    intent = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            intent = line[3:].strip()
            continue
        if not intent:
            raise ValueError(f"{path.name}:{number} stands before the first section")
        found.append(parse(intent, line))
    return found


def parse(intent: str, line: str) -> Utterance:
    """Take the marks out of one line."""
    slots: dict[str, str] = {}
    for match in _MARK.finditer(line):
        slots.setdefault(match.group(2), match.group(1))
    return Utterance(intent, _MARK.sub(r"\1", line), slots)
