"""Events that may end the process: each is noted before it is handled, by how many lives of the process began to.

Statements alone, inside the caller's transaction, and what this life noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, text

from .statements import Many

MAX_LIVES: Final = 3
"""An event that this many lives of the process ended with is not tried again by itself."""
Name = tuple[str, str]
"""What tells events apart: source and id."""

KNOWN: Final = text("SELECT lives FROM trying WHERE consumer = :group AND source = :source AND event_id = :id")
COUNT: Final = text(
    "INSERT INTO trying (consumer, source, event_id, lives) VALUES (:group, :source, :id, 1) "
    "ON CONFLICT (consumer, source, event_id) DO UPDATE SET lives = trying.lives + 1"
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
        if name in self._mine:
            return 0
        row = connection.execute(KNOWN, self._of(name)).first()
        return 0 if row is None else int(row.lives)

    def begin(self, connection: Connection, name: Name) -> None:
        """This one begins."""
        # Once a life: what a database that went away cut off did not end the process.
        if name not in self._mine:
            connection.execute(COUNT, self._of(name))
            self._mine.add(name)

    def choose(self, connection: Connection, names: Sequence[Name]) -> int:
        """How many of them to handle now, the first ones, each of which is begun: one that earlier lives ended with
        goes alone. None when too many did with the first."""
        chosen = 0
        for name in names:
            begun = self.begun(connection, name)
            if begun and chosen:
                break
            if begun >= MAX_LIVES:
                return 0
            self.begin(connection, name)
            chosen += 1
            if begun:
                break
        return chosen

    def end(self, connection: Connection, names: Iterable[Name]) -> None:
        """They ended without ending the process; ``forget`` them when that is committed."""
        END(connection, sorted(names), group=self._group)

    def forget(self, names: Iterable[Name]) -> None:
        """See ``end``."""
        self._mine.difference_update(names)

    def _of(self, name: Name) -> dict[str, str]:
        return {"group": self._group, "source": name[0], "id": name[1]}
