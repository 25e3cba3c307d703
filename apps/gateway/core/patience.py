"""How long anything may take: every time limit of the data plane in one place, in seconds.

A route's own limits (``timeout``, ``idle_timeout``) come from the configuration; these hold whatever it says.
There is no value for "no limit": every state of a connection or an exchange has one of these.
"""

from __future__ import annotations

HEAD_SECONDS = 15.0
"""A request's head must be whole this long after its first byte."""

IDLE_SECONDS = 75.0
"""A kept connection without a request is closed after this long."""

LINGER_SECONDS = 2.0
"""How long what still comes is read and thrown away before a connection closes: closing at once would reset it,
and the client might never see why."""

CLOSE_SECONDS = 30.0
"""How long a client may take to read the last answer of its connection."""

DECIDE_SECONDS = 30.0
"""An exchange that belongs to no route is over by then."""

MIN_RATE = 500
"""Bytes a second, on average, at which a body must come and an answer must be taken, once the route's
``idle_timeout`` has been used up: as in Apache's mod_reqtimeout. A byte now and then holds nothing for long."""

UPSTREAM_IDLE_SECONDS = 4.0
"""A kept connection is not used again after this long: common servers close theirs at 5 s, and a request
written into that race is lost."""

AVOID_SECONDS = 1.0
"""An instance that can't be reached is asked last for so long, which spares the others' callers a failed attempt
each, and the breaker the count, until the monitor's verdict."""


def body_deadline(now: float, started: float, size: int, idle: float) -> float:
    """When a body of which ``size`` bytes have come since ``started`` is given up: silence of ``idle``, or too slow."""
    return min(now + idle, started + idle + size / MIN_RATE)


def drain_deadline(blocked_at: float, taken: int, idle: float) -> float:
    """When a client that has taken ``taken`` bytes since its buffer was full at ``blocked_at`` is given up."""
    return blocked_at + idle + taken / MIN_RATE
