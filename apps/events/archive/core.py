"""What becomes of an event of the bus in the log. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from services.kit.events import gaps, schema
from services.kit.events.cloudevent import CloudEvent, EventError, check_data
from services.kit.events.gaps import Heard

LAST: Final = 2**63 - 1
MAX_SCHEMA: Final = 2**15 - 1


class Refused(Exception):
    """The log can't take the event: ``reason`` is one of Aside.Reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class Head:
    """How far a foreign stream has come, and what of it is known to be missing."""

    version: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    changed: bool = field(default=False, compare=False)

    @property
    def missing(self) -> int:
        """How many numbers."""
        return Heard(self.version, self.holes).missing

    def number(self, sequence: int) -> int:
        """The version of an event that came with ``sequence``, 0 for none: that, else the next that is free. Refused
        when there is none, or when it is too far from those before it to be believed."""
        if not sequence:
            if self.version >= LAST:
                raise Refused("number_jumps", "Its key has used the last number that there is.")
            sequence = self.version + 1
        known = Heard(self.version, self.holes) if self.version else gaps.begin(sequence, from_the_first=True)
        after = known.hear(sequence)
        if after.last < sequence:
            raise Refused("number_jumps", f"Its number is {sequence:,}; the last one was {self.version:,}.")
        self.version, self.holes, self.changed = after.last, after.holes, True
        return sequence


def moment(event: CloudEvent, now: float) -> datetime:
    """When it happened; what does not say so happened now."""
    return datetime.fromtimestamp(event.time or now, UTC)


def check(event: CloudEvent) -> None:
    """Refused for data that no database here can hold."""
    try:
        check_data(event.data)
    except EventError as error:
        raise Refused("unstorable", str(error)[:500]) from None


def schema_of(event: CloudEvent) -> tuple[int, str]:
    """The version of its type's schema that it names, and what else it names instead."""
    named = schema.named(event.dataschema) if event.dataschema else None
    if named is not None and named[0] == event.type and 0 < named[1] <= MAX_SCHEMA:
        return named[1], ""
    return 0, event.dataschema


def says_the_same(one: CloudEvent, other: CloudEvent) -> bool:
    """Whether two events of one source and id are one: what any of its deliveries says alike."""
    return (one.type, one.subject, one.partition_key, one.sequence) == (
        other.type,
        other.subject,
        other.partition_key,
        other.sequence,
    ) and _same(one.data, other.data)


def _same(one: Any, other: Any) -> bool:
    """JSON values, of which a database may write numbers in another way."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        numbers = not isinstance(one, bool | str) and not isinstance(other, bool | str)
        return one is not None and other is not None and numbers and _number(one) == _number(other)
    return type(one) is type(other) and bool(one == other)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return float("nan")
