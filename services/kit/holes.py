"""What a consumer knows of the numbers of its keys: the Gaps of the repair, in the service's own database."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import text

from .events.lanes import Key
from .events.repair import Hole
from .store import Store


class SqlGaps:
    """Of consumer group ``group``."""

    def __init__(self, store: Store, group: str) -> None:
        self._store = store
        self._group = group

    async def holes(self, most: int) -> list[Hole]:
        query = text(
            "SELECT source, key, holes FROM heard WHERE consumer = :group AND missing > 0 "
            "ORDER BY source, key LIMIT :most"
        )
        what = {"group": self._group, "most": most}
        rows = await self._store.read(lambda connection: connection.execute(query, what).all())
        return [Hole((row.source, row.key), start, end) for row in rows for start, end in json.loads(row.holes)][:most]

    async def heard(self, keys: Sequence[Key]) -> dict[Key, int]:
        if not keys:
            return {}
        query = text("SELECT last FROM heard WHERE consumer = :group AND source = :source AND key = :key")
        found = await self._store.read(
            lambda connection: [
                connection.execute(query, {"group": self._group, "source": source, "key": key}).scalar()
                for source, key in keys
            ]
        )
        return {key: last for key, last in zip(keys, found, strict=True) if last is not None}

    async def give_up(self, hole: Hole) -> None:
        """Nothing: what a service's work lacks is said until somebody has seen to it."""
