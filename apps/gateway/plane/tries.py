"""The attempts of one exchange: which instances were asked, under which permit, and how long each may take.

Owns the bookkeeping between an exchange, its service's breaker and its rotation: every permit is settled once. What
an attempt's end means for the client is the exchange's.
"""

from __future__ import annotations

from apps.gateway.core.config import Route
from apps.gateway.core.retry import may_retry
from apps.gateway.plane.table import Service
from apps.gateway.plane.upstream import Attempt, Instance, User
from apps.gateway.plane.upstream_http1 import UpstreamConnection
from apps.lib.problem import Problem


class Tries:
    """What was tried for one request, and what is being tried now."""

    __slots__ = ("_begun_at", "_permit", "_route", "_tried", "count", "current", "sent", "service")

    def __init__(self, service: Service, route: Route) -> None:
        self.service = service
        self.current: Attempt | None = None
        self.count = 0
        self.sent = False
        """A byte of the request may have reached an instance in the current attempt."""
        self._route = route
        self._tried: list[Instance] = []
        self._begun_at = 0.0
        self._permit = 0

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
        service = self.service
        breaker = service.breaker
        permit = breaker.acquire(now)
        if not permit:
            wait = max(1, int(breaker.retry_at - now + 0.999)) if breaker.state == "open" else 1
            return Problem(503, "breaker_open", f"The breaker of {service.name} is open.", wait)
        instance = again or service.rotation.choose(now, self._tried)
        if instance is None:
            breaker.release(permit)
            return Problem(503, "no_healthy_upstream", f"No instance of {service.name} is healthy.", 1)
        self._permit = permit
        self._begun_at = now
        if again is None:
            self.count += 1
            self._tried.append(instance)
        attempt = self.current = instance.acquire(user, fresh=again is not None)
        return attempt

    def settle(self, failed: bool | None, now: float, *, keep: bool = False) -> None:
        """Give the permit back: the attempt failed, went well, or (None) says nothing about the service.
        ``keep``: the attempt goes on, its verdict is in."""
        if not keep:
            self.current = None
        permit, self._permit = self._permit, 0
        if not permit:
            return
        if failed is None:
            self.service.breaker.release(permit)
        else:
            self.service.breaker.record(permit, failed, now - self._begun_at, now)

    def broke_off(self, now: float) -> None:
        """The answer had begun, was counted as good, and broke off."""
        self.current = None
        breaker = self.service.breaker
        breaker.record(breaker.acquire(now), True, now - self._begun_at, now)

    def bound_trial(self, now: float) -> None:
        """A trial that lasts as long as its client takes to send would decide nothing: its place is free again."""
        if self._permit and now > self._begun_at + self._route.timeout:
            permit, self._permit = self._permit, 0
            self.service.breaker.release(permit)

    def time_out(self) -> Attempt:
        """End the current attempt, which took too long."""
        attempt = self.current
        assert attempt is not None  # noqa: S101 - the caller looked
        attempt.failure, attempt.detail = "upstream_timeout", f"{attempt.instance.key} did not answer in time."
        attempt.close()
        return attempt

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

    def patience(self, method: bytes, *, replayable: bool) -> float:
        """Seconds that the current attempt may take: less than all there is while another instance could be asked."""
        route = self._route
        if len(self.service.rotation.targets) < 2:
            return route.timeout
        if not self.may_retry(method, answered=False, replayable=replayable):
            return route.timeout
        return route.per_try_timeout or route.timeout / 2

    def close(self) -> None:
        """The exchange is over: give everything back."""
        permit, self._permit = self._permit, 0
        if permit:
            self.service.breaker.release(permit)
        attempt, self.current = self.current, None
        if attempt is not None:
            attempt.close()
