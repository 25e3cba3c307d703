"""Events that may end the process: each is noted before it is handled, by how many lives of the process began to.

Statements alone, inside the caller's transaction, and what this life noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection

from .statements import Many

MAX_LIVES: Final = 3
"""An event that this many lives of the process ended with is not tried again by itself."""
Name = tuple[str, str]
"""What tells events apart: source and id."""

KNOWN: Final = Many(
    "SELECT trying.source, trying.event_id, trying.lives FROM {rows} AS asked JOIN trying ON "
    "trying.consumer = :group AND trying.source = asked.value ->> 0 AND trying.event_id = asked.value ->> 1"
)
COUNT: Final = Many(
    "INSERT INTO trying (consumer, source, event_id, lives) SELECT :group, value ->> 0, value ->> 1, 1 "
    "FROM {rows} WHERE true ON CONFLICT (consumer, source, event_id) DO UPDATE SET lives = trying.lives + 1"
)
END: Final = Many(
    "DELETE FROM trying WHERE consumer = :group AND (source, event_id) IN (SELECT value ->> 0, value ->> 1 FROM {rows})"
)


class Lives:
    """What consumer group ``group`` has begun to handle."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._mine: set[Name] = set()

    def begun(self, connection: Connection, name: Name) -> int:
        """How many earlier lives began to handle it and told of no end."""
        return self._known(connection, [name]).get(name, 0)

    def begin(self, connection: Connection, *names: Name) -> None:
        """This one begins to handle them."""
        # Once a life: what a database that went away cut off did not end the process.
        if new := {*names} - self._mine:
            COUNT(connection, sorted(new), group=self._group)
            self._mine |= new

    def choose(self, connection: Connection, names: Sequence[Name]) -> int:
        """How many of them to handle now, the first ones, each of which is begun: one that earlier lives ended with
        goes alone. None when too many did with the first."""
        known = self._known(connection, names)
        if known.get(names[0], 0) >= MAX_LIVES:
            return 0
        before = next((at for at, name in enumerate(names) if name in known), len(names))
        chosen = max(before, 1)
        self.begin(connection, *names[:chosen])
        return chosen

    def _known(self, connection: Connection, names: Iterable[Name]) -> dict[Name, int]:
        """Those that earlier lives began, and how many of them."""
        asked = sorted({*names} - self._mine)
        rows = KNOWN(connection, asked, group=self._group) if asked else ()
        return {(row[0], row[1]): int(row[2]) for row in rows}

    def end(self, connection: Connection, names: Iterable[Name]) -> None:
        """They ended without ending the process; ``forget`` them when that is committed."""
        END(connection, sorted(names), group=self._group)

    def forget(self, names: Iterable[Name]) -> None:
        """See ``end``."""
        self._mine.difference_update(names)
