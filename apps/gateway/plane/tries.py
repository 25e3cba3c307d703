"""The attempts of one exchange: which instances were asked, how long each may take, and who is told how it went.

Owns the bookkeeping between an exchange and its service's judges. An attempt is held against its instance
(apps.gateway.core.outlier); the request, with all its attempts, is one call of the service, recorded once as the
client saw it (apps.gateway.core.breaker) and in flight once (apps.gateway.core.overload). What an attempt's end means
for the client is the exchange's.
"""

from __future__ import annotations

from apps.gateway.core.config import Route
from apps.gateway.core.outlier import Mark
from apps.gateway.core.retry import may_retry
from apps.gateway.plane.table import Service
from apps.gateway.plane.upstream import Attempt, Instance, User
from apps.gateway.plane.upstream_http1 import UpstreamConnection
from services.kit.problem import Problem

FAILURE_STATUS = {
    "upstream_connect_failed": 502,
    "upstream_connect_timeout": 504,
    "upstream_address_refused": 502,
    "upstream_reset": 502,
    "upstream_protocol_error": 502,
    "upstream_overloaded": 503,
    "upstream_timeout": 504,
}

NOT_ITS_FAULT = frozenset({"upstream_overloaded", "upstream_address_refused"})
"""Failures that say nothing about the instance: our own bounds."""


class Tries:
    """What was tried for one request, and what is being tried now."""

    __slots__ = (
        "_began",
        "_blamed",
        "_mark",
        "_out_at",
        "_permit",
        "_recorded",
        "_route",
        "_served",
        "_tried",
        "count",
        "current",
        "sent",
        "service",
    )

    _mark: Mark
    """Of the instance asked last, once one was."""

    def __init__(self, service: Service, route: Route) -> None:
        self.service = service
        self.current: Attempt | None = None
        self.count = 0
        self.sent = False
        """A byte of the request may have reached an instance in the current attempt."""
        self._route = route
        self._tried: list[Instance] = []
        self._began = 0.0
        self._out_at = 0.0
        """When the service had the request, whole: what its client sends slowly is not its slowness."""
        self._blamed = False
        """The current attempt was held against its instance already."""
        self._permit = 0
        """The breaker's, for the whole request; it has passed the gate as well when there is one."""
        self._recorded = False
        self._served = False

    @property
    def connection(self) -> UpstreamConnection | None:
        """The current attempt's."""
        return self.current.connection if self.current is not None else None

    @property
    def instance(self) -> Instance | None:
        """The one asked last."""
        return self._tried[-1] if self._tried else None

    def begin(self, user: User, now: float, again: Instance | None = None) -> Attempt | Problem:
        """The next attempt, which may have been refused at once; or why there can be none.

        ``again``: on this instance, by a new connection, which does not count as a further attempt.
        """
        if not self._permit and (refusal := self._enter(now)) is not None:
            return refusal
        service = self.service
        instance = again or service.rotation.choose(now, self._tried)
        if instance is None:
            return Problem(503, "no_healthy_upstream", f"{service.name} has no instance that is switched on.")
        self._began = now
        self._blamed = False
        if again is None:
            self.count += 1
            self._tried.append(instance)
            self._mark = service.outliers.marks[instance.key]
        attempt = self.current = instance.acquire(user, fresh=again is not None)
        return attempt

    def _enter(self, now: float) -> Problem | None:
        """Before the first attempt: whether the service is asked at all."""
        service = self.service
        breaker = service.breaker
        permit = breaker.acquire(now)
        if not permit:
            wait = max(1, int(breaker.retry_at - now + 0.999)) if breaker.state == "open" else 1
            return Problem(503, "breaker_open", f"The breaker of {service.name} is open.", wait)
        if not service.gate.enter():
            breaker.release(permit)
            return Problem(503, "overloaded", f"{service.name} has as many requests in flight as it keeps up with.")
        self._permit = permit
        self._out_at = now
        return None

    def due(self, now: float) -> float:
        """Until when the current attempt is waited for if another may follow; the exchange's own limits aside."""
        route = self._route
        if len(self.service.rotation.targets) < 2 or self.count > route.retries:
            return now + route.timeout
        return now + (route.per_try_timeout or route.timeout / 2)

    def whole(self, now: float) -> float:
        """The request is out, to its last byte; see ``due``."""
        if self.count == 1:
            self._out_at = now
        return self.due(now)

    def elsewhere(self) -> bool:
        """Whether another instance could be asked."""
        return any(instance not in self._tried for instance in self.service.rotation.targets)

    def may_retry(self, method: bytes, *, answered: bool, replayable: bool) -> bool:
        """Whether another attempt may follow the current one."""
        return may_retry(
            method.decode("latin-1"),
            attempts=self.count,
            retries=self._route.retries,
            sent=self.sent,
            answered=answered,
            replayable=replayable,
        )

    # -- how an attempt went ------------------------------------------------------------------------

    def failed(self, now: float) -> None:
        """Its instance is to blame."""
        if not self._blamed:
            self._blamed = True
            self.service.outliers.failed(self._mark, self._began, now)

    def passed(self) -> None:
        """It is over, and its instance did well unless it was blamed already."""
        if not self._blamed:
            self._mark.passed()

    def lost(self) -> None:
        """There is no attempt any more."""
        self.current = None

    def time_out(self) -> Attempt:
        """End the current attempt, which took too long."""
        attempt = self.current
        assert attempt is not None  # noqa: S101 - the caller looked
        attempt.fail("upstream_timeout", f"{attempt.instance.key} did not answer in time.")
        attempt.close()
        return attempt

    # -- how the request went -----------------------------------------------------------------------

    def record(self, failed: bool, now: float, *, late: bool = False) -> None:
        """What the client is told. ``late``: that there was no answer in time.

        The failure of an instance that has been ejected is no call of the service: it is dealt with, and says
        nothing about the instances that are left. Else the many that were under way when it was ejected would open
        the breaker before them all.
        """
        if not self._permit or self._recorded:
            return
        service = self.service
        if failed and self._mark.until and not service.panic:
            return
        self._recorded = True
        self._served = not failed
        service.breaker.record(self._permit, failed, now - self._out_at, now)
        if late:
            service.gate.timed_out(now)

    def broke_off(self, now: float) -> None:
        """The answer had begun, and will not end."""
        self.failed(now)
        if self._served:
            self._served = False
            self.service.breaker.retract(self._permit, now)

    def close(self) -> None:
        """The exchange is over: give everything back."""
        if self._permit:
            if not self._recorded:
                self.service.breaker.release(self._permit)
            self.service.gate.leave(self._served)
            self._permit = 0
        attempt, self.current = self.current, None
        if attempt is not None:
            attempt.close()
