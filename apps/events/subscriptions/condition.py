"""Conditions of subscriptions over events, in CEL (the Common Expression Language, cel-spec): compiled once, and each
answer costs time and memory in proportion to the event. Pure.

A condition reads ``event``, a map of the attributes that the event has (extensions among them, all by their CloudEvents
names), and ``data``. The pattern of ``matches`` stands in the condition itself: one that a publisher chose, as large as
an event, would hold up all deliveries for minutes. CEL's macros over lists (``all``, ``map`` …) are left out: with them
the cost of an answer would be the event's size times 10,000. ``has()`` stays.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from cel_expr_python import cel

from services.kit.events.cloudevent import CloudEvent, attributes

MAX_LENGTH: Final = 1000
MAX_FAULT: Final = 300
LITERAL: Final = re.compile(
    r"""//[^\n]*|(?P<raw>(?i:\bb?rb?))?(?P<end>\"{3}|'{3}|"|')"""
    r"""(?(raw)(?:(?!(?P=end))(?s:.))*|(?:\\(?s:.)|(?!(?P=end))[^\\])*)(?P=end)"""
)
"""A comment or a string (cel-spec, *Syntax*): in a raw one a backslash is itself."""
MATCHES: Final = re.compile(r"\bmatches`?\s*\(")
MATCHES_LITERAL: Final = re.compile(r"\.\s*matches\s*\(\s*''\s*\)")
WITHOUT_LOOPS: Final = """
name: subscriptions
stdlib:
  exclude_macros: [all, exists, exists_one, map, filter]
"""
_env: Final = cel.NewEnv(
    config=cel.NewEnvConfigFromYaml(WITHOUT_LOOPS),
    variables={"event": cel.Type.Map(cel.Type.STRING, cel.Type.DYN), "data": cel.Type.DYN},
)


class ConditionError(ValueError):
    """The text is no condition; the message says why."""


class Odd(ValueError):
    """The condition has no answer for this event, such as for one without the field that it reads."""


class Condition:
    """One compiled condition."""

    def __init__(self, text: str) -> None:
        """ConditionError when it does not parse, or could not give true or false."""
        if len(text) > MAX_LENGTH:
            raise ConditionError(f"A filter has at most {MAX_LENGTH:,} characters.")
        bare = LITERAL.sub(lambda found: "''" if found["end"] else " ", text)
        if len(MATCHES.findall(bare)) != len(MATCHES_LITERAL.findall(bare)):
            raise ConditionError("Write the pattern of matches as it stands: text.matches('^(DE|FR)$').")
        try:
            self._program = _env.compile(text)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConditionError(f"The filter is no CEL condition: {_said(error)}") from None
        kind = self._program.return_type().name()
        if kind not in {"BOOL", "DYN"}:
            raise ConditionError(f"The filter must say true or false, and this says {kind.lower()}.")
        self.text = text

    def __call__(self, event: CloudEvent) -> bool:
        """Whether ``event`` meets it; Odd when that can't be said."""
        try:
            found = self._program.eval(data={"event": _attributes(event), "data": event.data})
            answer = found.plain_value()
        except (RuntimeError, ValueError, TypeError) as error:
            raise Odd(_said(error)) from None
        if answer is True or answer is False:
            return answer
        raise Odd(_said(answer))


@lru_cache(maxsize=512)
def compiled(text: str) -> Condition:
    """``Condition(text)``, made once."""
    return Condition(text)


def _attributes(event: CloudEvent) -> dict[str, Any]:
    return {**attributes(event), **event.extensions}


def _said(error: object) -> str:
    """The first line of what the library says: the rest draws where."""
    line = str(error).strip().partition("\n")[0]
    text = line.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ").replace(" (in container '')", "")
    return "".join(character for character in text if character.isprintable())[:MAX_FAULT]
