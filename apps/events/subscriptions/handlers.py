"""Internal subscriptions: code of ours that is called for each event, once in effect.

A handler runs in the transaction of its ``Handled`` row and of the subscription's position: all of it is stored, or
none. What else it does (a request, a mail) may happen again. It runs on the relay's one database thread: keep it short.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from django.db import close_old_connections, transaction
from django.db.models import F

from apps.events import queries
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.models import Event
from apps.events.subscriptions.core import Item
from apps.events.subscriptions.matching import Wanted
from apps.events.subscriptions.models import MAX_ERROR, Handled, Subscription
from apps.events.subscriptions.store import AT_ONCE, Lost, Tail, read
from apps.lib import clock, database
from services.kit.events.retry import Permanent

log = logging.getLogger(__name__)

RETRIES: Final = 50
"""Letters of one handler that are tried in one step."""


@dataclass(frozen=True, slots=True)
class Handler:
    """``handle`` is called for the events whose type matches one of ``patterns``. It raises Permanent for one that can
    never be handled; whatever else it raises is tried again."""

    name: str
    patterns: tuple[str, ...]
    handle: Callable[[Event], None]
    from_beginning: bool = True
    """False: only what comes after its first start."""


REGISTERED: dict[str, Handler] = {}


def register(handler: Handler) -> Handler:
    """Have ``handler`` called by the relay; called when the apps are ready."""
    REGISTERED[handler.name] = handler
    return handler


def ensure() -> None:
    """Every handler has its subscription, and that its patterns."""
    close_old_connections()
    for handler in REGISTERED.values():
        row, new = Subscription.objects.get_or_create(
            name=handler.name,
            defaults={
                "kind": Subscription.Kind.INTERNAL,
                "patterns": list(handler.patterns),
                "position": 0 if handler.from_beginning else queries.head(),
            },
        )
        if not new and row.kind == Subscription.Kind.INTERNAL and row.patterns != list(handler.patterns):
            Subscription.objects.filter(pk=row.pk).update(patterns=list(handler.patterns))


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one step. ``position``: how far it has read."""

    position: int
    moved: bool
    next_due: float | None
    delivered: int
    failed: int
    stale: bool
    """Somebody has changed the subscription, or paused it."""


def step(row: Subscription, holder: str, handler: Handler, tail: Tail, position: int) -> Step:
    """Handle what comes next, in order per key. Lost without the lease; DatabaseError leaves the rest for later."""
    wanted = Wanted(handler.name, handler.patterns)
    found = read(row, wanted, tail, position, AT_ONCE, RETRIES, clock.wall())
    fallen: set[str] = set()
    taken = failed = 0
    for item in (*found.letters, *found.fresh):
        if item.key in fallen:
            if item.letter is None:
                queue.park(row, item.event, clock.wall())
            continue
        if _handle(row, holder, handler, item):
            taken += 1
        else:
            fallen.add(item.key)
            failed += 1
    if found.position > position and not Subscription.objects.filter(pk=row.pk, holder=holder).update(
        position=found.position
    ):
        raise Lost
    moved = found.position > position or bool(found.letters)
    due = queue.next_due(row) if found.letters or failed else found.next_due
    return Step(found.position, moved, due, taken, failed, found.stale)


def _handle(row: Subscription, holder: str, handler: Handler, item: Item) -> bool:
    event, now = item.event, clock.wall()
    try:
        with transaction.atomic():
            _hold(row, holder, item, delivered=F("delivered") + 1, delivered_at=datetime.fromtimestamp(now, UTC))
            _, new = Handled.objects.get_or_create(
                subscription=row,
                source=event.source,
                event_id=event.event_id,
                defaults={"at": datetime.fromtimestamp(now, UTC)},
            )
            if new:
                handler.handle(event)
            if item.letter is not None:
                queue.resolve(item.letter, now)
        return True
    except Lost:
        raise
    except Exception as error:
        # Everything that a handler raises is its outcome; only a database that is away is nobody's.
        if database.away(error) is not None:
            raise
        log.warning("Handler %s failed on %s %s: %s", handler.name, event.type, event.event_id, error)
        said = f"{type(error).__name__}: {error}"
        stack = "".join(traceback.format_exception(error))
        failure = Failure("handler", said, stack, permanent=isinstance(error, Permanent))
    with transaction.atomic():
        _hold(row, holder, item, failed=F("failed") + 1, last_error=failure.error[:MAX_ERROR])
        queue.fail(row, event, failure, clock.wall(), item.letter)
    return False


def _hold(row: Subscription, holder: str, item: Item, **changes: object) -> None:
    """The lease, for as long as the transaction lasts, and the position with it."""
    if item.letter is None:
        # What was read before it is settled: it was handled, or has its letter.
        changes["position"] = item.position
    if not Subscription.objects.filter(pk=row.pk, holder=holder).update(**changes):
        raise Lost
