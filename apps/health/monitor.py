"""The monitor's two kinds of turns: a round of health checks, and a look at what breakers did.

Each turn is one pass of blocking work that says when the next is due; who calls it, on which thread, and what wakes it
sooner is missioncontrol.monitor's business.
"""

from __future__ import annotations

import logging
import math

import redis
from django.conf import settings
from django.db import DatabaseError

from apps.health import breakers
from apps.health.announce import Announcer
from apps.health.findings import record
from apps.health.prober import ProberOfProcess
from apps.health.rounds import begin
from apps.lib import alive, clock
from apps.lib.lease import Lease
from apps.lib.wire import MONITOR, MONITOR_LEASE
from services.kit.events.pump import Trouble

log = logging.getLogger(__name__)

SOONEST_S, LATEST_S = 1.0, 5.0
"""Between two rounds, unless a nudge comes: checks that are due within one wait for company, and a lost nudge costs
the other."""
MARGIN_S = 2.0
"""How much longer than its pause a worker holds the lease: the time that a round may take."""
AGAIN_S = 1.0
"""Until the next try while an engine is away."""
LOOK_AROUND_S = 5.0
"""Between two looks at breakers as workers describe them; news of transitions come by themselves."""


class Rounds:
    """Rounds of health checks, by one worker at a time: who holds the lease."""

    def __init__(self) -> None:
        self._announcer = Announcer(settings.REDIS_URL)
        self._prober = ProberOfProcess(
            lambda found: record(found, self._announcer), settings.VERSION, settings.ADDRESS_GUARD
        )
        self._lease = Lease(settings.REDIS_URL, MONITOR_LEASE, LATEST_S + MARGIN_S)
        self._pause = SOONEST_S
        self._database = Trouble("The database", "nothing is probed")

    def turn(self) -> float:
        """Probe every instance that is due, all of them at once; seconds until the next is."""
        if wait := self._wait_for_lease():
            return wait
        now = clock.wall()
        try:
            round_ = begin(now, self._announcer)
        except DatabaseError as error:
            self._database.begins(error)
            # Another worker may have a database that answers.
            self._give_back()
            return AGAIN_S
        self._database.is_over()
        # The prober bounds what is under way and stores what comes of it; a slow instance holds up no round.
        self._prober.get().start(round_.targets)
        # The gateway's workers believe verdicts for as long as rounds are held, and not because a process is there.
        alive.refresh(settings.REDIS_URL, settings.WIRE, MONITOR)
        due = min(max(round_.next_at or math.inf, now + SOONEST_S), now + LATEST_S)
        self._pause = due - now
        return max(due - clock.wall(), 0.0)

    def stop(self) -> None:
        """Record what is under way, and let another worker go on."""
        self._prober.stop()
        self._give_back()

    def _wait_for_lease(self) -> float:
        try:
            return self._lease.hold(self._pause + MARGIN_S)
        except redis.RedisError:
            # Every worker may then: the claims themselves hold them apart.
            return 0.0

    def _give_back(self) -> None:
        try:
            self._lease.give_back()
        except redis.RedisError as error:
            log.debug("The lease was left to lapse: %s", error)


class Tracking:
    """Breaker transitions that gateway workers reported since the last look, into the books."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._engines = Trouble("The database or Redis", "breakers are not tracked")

    def turn(self) -> float:
        """Store what is new; seconds until the next look around."""
        now = clock.monotonic()
        look_around = now - self._looked_at >= LOOK_AROUND_S
        if look_around:
            self._looked_at = now
        try:
            breakers.track(settings.REDIS_URL, clock.wall(), look_around=look_around)
        except (redis.RedisError, DatabaseError) as error:
            self._engines.begins(error)
            return AGAIN_S
        self._engines.is_over()
        return max(self._looked_at + LOOK_AROUND_S - now, 0.0)
