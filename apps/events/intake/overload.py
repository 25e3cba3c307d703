"""When to send publishers away before their body is read: too many at once, or a bus that has been behind for long."""

from __future__ import annotations

import threading

from django.conf import settings
from django.db.models import Max

from apps.events import outbox
from apps.events.models import Event
from apps.lib import clock
from services.kit.problem import Problem, Refused

AT_ONCE = 8
"""Requests that publish at the same time in one process: each may hold a body of megabytes."""
LOOK_EVERY_S = 1.0
BUSY_S, BEHIND_S = 1, 10
"""Seconds after which it is worth coming again."""

turns = threading.BoundedSemaphore(AT_ONCE)


class Depth:
    """How many events lie between the oldest that waits for the bus and the newest: by two ends of indexes, now and
    then, so that it costs the same whatever waits."""

    def __init__(self) -> None:
        self._look_at = float("-inf")
        self._depth = 0

    def read(self) -> int:
        """At most LOOK_EVERY_S old."""
        now = clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            oldest = outbox.waiting().order_by("pk").values_list("pk", flat=True).first()
            newest = Event.objects.aggregate(newest=Max("pk"))["newest"]
            self._depth = newest - oldest + 1 if oldest and newest else 0
        return self._depth


depth = Depth()


def take_turn() -> None:
    """503 `overloaded` or `bus_behind`; else the caller has a turn, and gives it back with ``turns.release()``."""
    if depth.read() > settings.OUTBOX_MOST:
        detail = f"More than {settings.OUTBOX_MOST:,} events wait for the bus, and no more are taken from outside."
        raise Refused(Problem(503, "bus_behind", detail, retry_after=BEHIND_S))
    if not turns.acquire(blocking=False):
        detail = f"{AT_ONCE} requests are being published now; come again in a moment, or send batches."
        raise Refused(Problem(503, "overloaded", detail, retry_after=BUSY_S))
