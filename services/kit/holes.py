"""What a consumer knows of the numbers of its keys, in the service's own database, and the Gaps of its repair."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, text

from .events.gaps import Heard
from .events.lanes import Key
from .events.repair import Hole
from .statements import Many
from .store import Store

KNOWN: Final = Many(
    "SELECT heard.source, heard.key, heard.last, heard.holes FROM {rows} AS asked JOIN heard ON "
    "heard.consumer = :group AND heard.source = asked.value ->> 0 AND heard.key = asked.value ->> 1"
)
HEARD: Final = Many(
    "INSERT INTO heard (consumer, source, key, last, holes, missing) SELECT :group, value ->> 0, value ->> 1, "
    "CAST(value ->> 2 AS BIGINT), value ->> 3, CAST(value ->> 4 AS BIGINT) FROM {rows} WHERE true "
    "ON CONFLICT (consumer, source, key) "
    "DO UPDATE SET last = excluded.last, holes = excluded.holes, missing = excluded.missing"
)
HOLES: Final = text(
    "SELECT source, key, holes FROM heard WHERE consumer = :group AND missing > 0 ORDER BY source, key LIMIT :most"
)


class SqlGaps:
    """Of consumer group ``group``."""

    def __init__(self, store: Store, group: str) -> None:
        self._store = store
        self._group = group

    # -- inside a transaction ----------------------------------------------------------------------

    def known(self, connection: Connection, keys: Collection[Key]) -> dict[Key, Heard]:
        """What was heard of those keys that anything was heard of."""
        if not keys:
            return {}
        rows = KNOWN(connection, sorted(keys), group=self._group)
        return {(row[0], row[1]): Heard(row[2], _read(row[3])) for row in rows}

    def write(self, connection: Connection, heard: Mapping[Key, Heard]) -> None:
        """Keep what is known now."""
        if heard:
            rows = [(*key, one.last, json.dumps(one.holes), one.missing) for key, one in sorted(heard.items())]
            HEARD(connection, rows, group=self._group)

    # -- for the repair (events.repair.Gaps) -------------------------------------------------------

    async def holes(self, most: int) -> list[Hole]:
        what = {"group": self._group, "most": most}
        rows = await self._store.read(lambda connection: connection.execute(HOLES, what).all())
        return [Hole((row.source, row.key), start, end) for row in rows for start, end in _read(row.holes)][:most]

    async def heard(self, keys: Sequence[Key]) -> dict[Key, int]:
        found = await self._store.read(lambda connection: self.known(connection, keys))
        return {key: one.last for key, one in found.items()}

    async def give_up(self, hole: Hole) -> None:
        """Nothing: what a service's work lacks is said until somebody has seen to it."""


def _read(holes: str) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in json.loads(holes)) if holes != "[]" else ()
