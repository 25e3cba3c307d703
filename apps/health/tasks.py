"""What Celery beat schedules: rounds of probing, breaker tracking, retention."""

from __future__ import annotations

import logging
import secrets
from concurrent.futures import TimeoutError as StillRunning
from datetime import UTC, datetime

import redis
from celery import shared_task
from celery.signals import worker_shutdown
from django.conf import settings
from django.db import DatabaseError

from apps.health import breakers
from apps.health.announce import Announcer
from apps.health.findings import record
from apps.health.models import BreakerTransition, HealthTransition
from apps.health.prober import ProberOfProcess
from apps.health.rounds import begin
from apps.lib import alive, clock, kv
from apps.lib.wire import MONITOR

log = logging.getLogger(__name__)

ROUND_LOCK = "mc:health:round"
"""Held while a round claims, so that several workers don't all read the registry each second."""
ROUND_LOCK_MS = 3000
WAIT_S = 0.8
"""How long a round waits for its findings; slower ones are recorded when they come."""

LOOK_AROUND_S = 3.0
DAY_S = 86_400.0
CHUNK = 5000
ROUNDS = 20
"""Chunks a run of retention deletes at most per table."""

announcer = Announcer(settings.REDIS_URL)
prober = ProberOfProcess(lambda found: record(found, announcer), settings.VERSION, settings.ADDRESS_GUARD)


@shared_task(name="health.probe_due")
def probe_due() -> None:
    """Probe every instance that is due, all of them at once."""
    token = secrets.token_hex(8)
    if not _take(token):
        return
    try:
        targets = begin(clock.wall(), announcer)
    except DatabaseError as error:
        _probing.say(error)
        return
    finally:
        _give_back(token)
    _probing.say(None)
    started = prober.get().start(targets)
    # The gateway's workers believe verdicts for as long as rounds are held, and not because a process is there.
    alive.refresh(settings.REDIS_URL, settings.WIRE, MONITOR)
    try:
        started.result(WAIT_S)
    except StillRunning:
        log.debug("Some of %d instances take their time; their findings follow.", len(targets))


def _take(token: str) -> bool:
    """Whether this round may claim. Without Redis every round may: the claims themselves hold them apart."""
    client = kv.client(settings.REDIS_URL)
    try:
        if client.set(ROUND_LOCK, token, nx=True, px=ROUND_LOCK_MS):
            return True
        left = int(client.pttl(ROUND_LOCK))  # type: ignore[arg-type]
        if left == -1 or left > ROUND_LOCK_MS:
            client.delete(ROUND_LOCK)  # it outlives any of ours, so it is none: the next round takes it
    except redis.RedisError:
        return True
    return False


def _give_back(token: str) -> None:
    client = kv.client(settings.REDIS_URL)
    try:
        if client.get(ROUND_LOCK) == token:
            client.delete(ROUND_LOCK)
    except redis.RedisError as error:
        log.debug("The round's lock was left to expire: %s", error)


class _Away:
    """Says once that something is away, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._what, self._away = what, False

    def say(self, error: Exception | None) -> None:
        if error is not None and not self._away:
            log.warning("%s: %s", self._what, error)
        elif error is None and self._away:
            log.warning("%s: over.", self._what)
        self._away = error is not None


_probing = _Away("Nothing is probed, the database does not answer")
_tracking = _Away("Breakers are not tracked")
_looked_at = 0.0


@shared_task(name="health.track_breakers")
def track_breakers() -> None:
    """Store the breaker transitions that gateway workers reported since the last look."""
    global _looked_at
    now = clock.monotonic()
    look_around = now - _looked_at >= LOOK_AROUND_S
    if look_around:
        _looked_at = now
    try:
        breakers.track(settings.REDIS_URL, clock.wall(), look_around=look_around)
    except (redis.RedisError, DatabaseError) as error:
        _tracking.say(error)
    else:
        _tracking.say(None)


@shared_task(name="health.prune")
def prune() -> None:
    """Forget transitions past their retention, in chunks that hold nobody up."""
    cut = datetime.fromtimestamp(clock.wall() - settings.HISTORY_DAYS * DAY_S, UTC)
    for table in (HealthTransition, BreakerTransition):
        for _ in range(ROUNDS):
            chosen = list(table.objects.filter(at__lt=cut).order_by("at").values_list("pk", flat=True)[:CHUNK])
            for start in range(0, len(chosen), 500):
                table.objects.filter(pk__in=chosen[start : start + 500]).delete()
            if len(chosen) < CHUNK:
                break


@worker_shutdown.connect
def _stop_probing(**_: object) -> None:
    prober.stop()
