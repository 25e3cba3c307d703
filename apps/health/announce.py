"""Verdicts on Redis: what the gateway's workers and the live feed hear, within a second of the decision.

The database is the truth and Redis a copy: whatever could not be said is said again by the next
round, and a Redis that lost its memory is filled anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from threading import Lock
from typing import Any, cast

import redis
from django.conf import settings

from apps.lib import clock, kv
from apps.lib.border import is_spoilt
from apps.lib.messages import Verdict
from apps.lib.wire import HEALTH_CHANNEL, HEALTH_STATE

log = logging.getLogger(__name__)


class Announcer:
    """Tells Redis, and remembers when it could not. One per process; thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = Lock()
        # True at start: Redis may hold nothing, or verdicts from before the last shutdown.
        self._must_repeat = True
        self._away = False

    @property
    def must_repeat(self) -> bool:
        """Whether everything has to be announced again."""
        with self._lock:
            return self._must_repeat

    def tell(self, refreshed: Iterable[Verdict], changed: Iterable[Verdict]) -> bool:
        """One round trip: write what was probed, publish what changed. False when Redis is away."""
        changed = list(changed)
        entries = {verdict.instance: _entry(verdict) for verdict in (*refreshed, *changed)}
        if not entries:
            return True
        return self._send(entries, changed, ())

    def repeat(self, everything: Iterable[Verdict]) -> bool:
        """Announce all of it: after a start, after a failure, or when Redis forgot."""
        verdicts = list(everything)
        sent = self._send({verdict.instance: _entry(verdict) for verdict in verdicts}, verdicts, ())
        if sent:
            with self._lock:
                self._must_repeat = False
        return sent

    def forget(self, keys: Iterable[str]) -> bool:
        """Remove instances that are gone or switched off."""
        gone = list(keys)
        # What a stranger put there may have any name: that is removed, and nobody needs to hear of it.
        news = [Verdict(key, "unknown", clock.wall(), 0) for key in gone if key.isascii()]
        return self._send({}, news, gone)

    def known(self) -> set[str] | None:
        """The instances that Redis has an entry of; None when it is away."""
        try:
            return {str(key) for key in kv.client(self._url).hkeys(HEALTH_STATE)}
        except redis.RedisError as error:
            self._failed(error)
            return None

    def _send(self, entries: dict[Any, Any], news: list[Verdict], gone: Iterable[str]) -> bool:
        gone = list(gone)
        pipe = kv.client(self._url).pipeline(transaction=False)
        # The hash first: whoever hears the news and looks must find it there.
        if entries:
            pipe.hset(HEALTH_STATE, mapping=entries)
        if gone:
            # As bytes: a stranger's name need not be UTF-8.
            pipe.hdel(HEALTH_STATE, *(key.encode(errors=kv.ERRORS) for key in gone))
        for verdict in news:
            pipe.publish(HEALTH_CHANNEL, settings.WIRE.close(verdict, HEALTH_CHANNEL))
        try:
            pipe.execute()
        except redis.RedisError as error:
            self._failed(error)
            return False
        if self._away:
            self._away = False
            log.warning("Redis answers again: verdicts are announced.")
        return True

    def _failed(self, error: redis.RedisError) -> None:
        with self._lock:
            self._must_repeat = True
        if is_spoilt(error):
            self._clear()
            return
        if not self._away:
            self._away = True
            log.warning("Redis does not answer (%s): verdicts are kept and announced when it does.", error)

    def _clear(self) -> None:
        try:
            settings.WIRE.clear(kv.client(self._url))
        except redis.RedisError as error:
            log.debug("What stands in the way on Redis is cleared later: %s", error)


def _entry(verdict: Verdict) -> bytes:
    """What lies in the hash, under the instance's name."""
    return cast("bytes", settings.WIRE.close(verdict, HEALTH_STATE, verdict.instance))
