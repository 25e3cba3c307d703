"""A publisher's own log, for whoever did not get all of it: what the outbox has sent, by key and number.

Answers to the fleet alone, like everything of a service. What it gives is signed, as the broker would have had it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from sqlalchemy import Connection, text
from starlette.responses import Response

from .events.cloudevent import decode, encode
from .events.patterns import PatternError, matches, segments
from .events.repair import MOST_BYTES, MOST_EVENTS, MOST_KEYS, Head, Heads, Page
from .events.signing import Keys, NoKey
from .problem import refuse
from .store import Store

LAST = 2**63 - 1
Number = Annotated[int, Query(ge=0, le=LAST)]
Text = Annotated[str, Query(max_length=256)]
MAX_PATTERNS = 32


def router(store: Store, keys: Keys, source: str) -> APIRouter:
    """``/events/published`` and its ``heads``, over the outbox in ``store``."""
    routes = APIRouter(prefix="/events/published", tags=["events"])

    @routes.get("")
    async def published(key: Text, after: Number = 0, until: Number = LAST) -> Response:
        """What was sent under ``key`` with numbers over ``after`` up to ``until``, in order; as much as one answer
        holds. ``complete`` says that there is no more, ``first`` which number is the lowest that is still kept."""
        rows, first = await store.read(lambda connection: _page(connection, key, after, until))
        events: list[msgspec.Raw] = []
        size = 0
        for row in rows[:MOST_EVENTS]:
            if events and size + len(row.body) > MOST_BYTES:
                break
            size += len(row.body)
            try:
                events.append(msgspec.Raw(encode(keys.sign(decode(row.body), source))))
            except NoKey as error:
                raise refuse(503, "no_key", str(error)) from None
        return _answer(Page(events, len(events) == len(rows), first))

    @routes.get("/heads")
    async def heads(
        since: Annotated[float, Query(ge=0, le=1e12)] = 0.0,
        after: Text = "",
        type: Annotated[list[str] | None, Query(max_length=MAX_PATTERNS)] = None,
    ) -> Response:
        """The last number of each key of which something was sent from the second ``since`` on, by key, those behind
        ``after``. ``type``: counting types that match one of these patterns alone."""
        patterns = type or ["#"]
        try:
            for pattern in patterns:
                segments(pattern)
        except PatternError as error:
            raise refuse(422, "invalid", str(error)) from None
        at = time.time()
        rows = await store.read(lambda connection: _heads(connection, since, after))
        more = None
        if len(rows) == MOST_KEYS:
            # The last key may have more types than were read: it is for the next answer.
            whole = [row for row in rows if row.key != rows[-1].key] or rows
            rows, more = whole, whole[-1].key
        found: dict[str, int] = {}
        for row in rows:
            if any(matches(pattern, row.type) for pattern in patterns):
                found[row.key] = max(found.get(row.key, 0), int(row.last))
        return _answer(Heads([Head(key, last) for key, last in found.items()], at, more))

    return routes


def _page(connection: Connection, key: str, after: int, until: int) -> tuple[list[Any], int]:
    rows = connection.execute(
        text(
            "SELECT body FROM outbox WHERE key = :key AND sequence > :after AND sequence <= :until "
            "AND sent_at IS NOT NULL ORDER BY sequence, id LIMIT :most"
        ),
        {"key": key, "after": after, "until": until, "most": MOST_EVENTS + 1},
    ).all()
    first = connection.execute(
        text("SELECT MIN(sequence) FROM outbox WHERE key = :key AND sequence > 0"), {"key": key}
    ).scalar()
    return list(rows), int(first or 0)


def _heads(connection: Connection, since: float, after: str) -> list[Any]:
    rows = connection.execute(
        text(
            "SELECT key, type, MAX(sequence) AS last FROM outbox WHERE sent_at >= :since AND key > :after "
            "AND sequence > 0 GROUP BY key, type ORDER BY key, type LIMIT :most"
        ),
        {"since": since, "after": after, "most": MOST_KEYS},
    )
    return list(rows)


def _answer(found: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json")
