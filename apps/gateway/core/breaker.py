"""A circuit breaker with resilience4j's semantics, as a state machine over recorded outcomes.

Pure: time comes in as ``now`` (monotonic seconds) and changes go out through a listener. A call is a
client's request with all its attempts, recorded once, as the client saw it. A permit is a number of the
spell in which it was given, so a call that began before the breaker opened can't decide a half-open
trial, and a permit handed back twice can't free two places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from apps.gateway.core import config
from apps.gateway.core.windows import FAILED, SLOW, CountWindow, TimeWindow, Window

State = Literal["closed", "open", "half_open"]
REFUSED = 0

FOLLOWED = "Another worker opened it."
RECOVERED = "An instance turned healthy."
MAX_LATE = 100
"""Most trial calls remembered beyond the places there are; the outcome of an older one is not counted."""
QUIET_SECONDS = 2.0
"""How long trial calls may stay away before the monitor's word alone closes a breaker."""


@dataclass(frozen=True, slots=True)
class Change:
    """One transition; ``reason`` is a sentence for people."""

    before: State
    after: State
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class View:
    """The breaker as seen from outside; rates are 0..1 over the window, times are the caller's clock."""

    state: State
    since: float
    forced: bool
    calls: int
    failure_rate: float
    slow_rate: float
    retry_at: float | None


class Breaker:
    """Guards one service in one worker."""

    __slots__ = (
        "_close_at",
        "_completed",
        "_first",
        "_last",
        "_listener",
        "_trials",
        "_window",
        "config",
        "retry_at",
        "since",
        "state",
    )

    def __init__(self, settings: config.Breaker, listener: Callable[[Change], None], now: float = 0.0) -> None:
        self.config = settings
        self._listener = listener
        self.state: State = "closed"
        self.since = now
        self.retry_at = now
        self._first = self._last = 1
        """The permits of this spell; all calls of a closed one share the first."""
        self._window = self._new_window()
        self._trials: dict[int, float] = {}
        """Trial calls whose outcome is not known, by permit, oldest first: when each began."""
        self._completed = 0
        self._close_at: float | None = None
        if settings.override is not None:
            self._force(settings.override, now)

    # -- calls ----------------------------------------------------------------------------------

    def acquire(self, now: float) -> int:
        """A permit to call, or REFUSED. Give every permit back by ``record`` or ``release``."""
        if self.state != "closed":
            self.tick(now)
        if self.state == "closed":
            return self._first
        calls = self.config.half_open_calls
        if self.state != "half_open" or self._completed + self._occupied(now) >= calls:
            return REFUSED
        if len(self._trials) >= calls + MAX_LATE:
            del self._trials[next(iter(self._trials))]
        self._last += 1
        self._trials[self._last] = now
        return self._last

    def record(self, permit: int, failed: bool, duration: float, now: float) -> None:
        """A call ended after ``duration`` seconds. Ignored when the breaker has changed state since its permit."""
        if self.state == "half_open":
            if self._trials.pop(permit, None) is None:
                return
            self._completed += 1
        elif permit != self._first:
            return
        outcome = (FAILED if failed else 0) | (SLOW if duration > self.config.slow_call_duration else 0)
        self._window.add(outcome, now)
        self._judge(now)

    def retract(self, permit: int, now: float) -> None:
        """A call that was recorded as good failed after all: its answer broke off."""
        if self._first <= permit <= self._last:
            self._window.retract(now)
            self._judge(now)

    def release(self, permit: int) -> None:
        """A call ended and says nothing about the service (the client hung up): its trial place is free again."""
        self._trials.pop(permit, None)

    def _occupied(self, now: float) -> int:
        """Places taken by trial calls that began within the wait in open.

        A longer one has its place taken by the next caller, so that a slow upload or an endless answer can't
        hold the trial up. It is counted as neither good nor bad meanwhile: a client can make a call slow at
        will, and must not be able to keep a sound service cut off. Its outcome still counts when it comes.
        """
        oldest = now - self.config.wait_in_open
        return sum(began > oldest for began in self._trials.values())

    # -- outside events ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Half-open by itself once the wait is over; closed when the monitor vouched and no trial call objected."""
        if self.config.override is not None:
            return
        if self.state == "open" and now >= self.retry_at:
            self._become("half_open", "The wait in open is over.", now)
        elif self._close_at is not None and now >= self._close_at and not self._occupied(now):
            window = self._window
            if not window.failures and not window.slow:
                self._become("closed", RECOVERED, now)

    def follow(self, now: float) -> None:
        """A peer's breaker for this service opened."""
        if self.state != "open" and self.config.override is None:
            self._become("open", FOLLOWED, now)

    def recover(self, now: float) -> None:
        """The monitor vouches for the service, by a check since the breaker opened: on trial at once, without the wait.

        Trial calls still decide; when none comes, a check that passed is as good, so that a service
        without traffic does not stay half-open until somebody needs it.
        """
        if self.state == "closed" or self.config.override is not None:
            return
        if self.state == "open":
            self._become("half_open", RECOVERED, now)
        if self._close_at is None:
            self._close_at = now + QUIET_SECONDS

    def configure(self, settings: config.Breaker, now: float) -> None:
        """Adopt changed settings. An operator's override acts at once; a changed window starts empty."""
        before, self.config = self.config, settings
        shape = (before.sliding_window_type, before.sliding_window_size)
        if shape != (settings.sliding_window_type, settings.sliding_window_size):
            self._window = self._new_window()
        if settings.override == before.override:
            return
        if settings.override is not None:
            self._force(settings.override, now)
        else:
            # Released: start afresh rather than judge by calls that an operator's word let through or held back.
            self._become("closed", "An operator released it.", now)

    def view(self, now: float) -> View:
        """What the reports say."""
        window = self._window
        window.settle(now)
        calls = window.calls
        opened = self.state == "open" and self.config.override is None
        return View(
            self.state,
            self.since,
            self.config.override is not None,
            calls,
            window.failures / calls if calls else 0.0,
            window.slow / calls if calls else 0.0,
            self.retry_at if opened else None,
        )

    # -- transitions --------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        settings = self.config
        if self.state == "half_open":
            if self._completed >= settings.half_open_calls:
                reason = self._fault(self._window.calls)
                self._become("open" if reason else "closed", reason or "The trial calls went well.", now)
            return
        if self.state != "closed" or settings.override is not None:
            return
        calls = self._window.calls
        minimum = settings.minimum_calls
        if settings.sliding_window_type == "count":
            # A window smaller than the minimum would never fill, and the breaker never act.
            minimum = min(minimum, settings.sliding_window_size)
        if calls >= minimum and (reason := self._fault(calls)):
            self._become("open", reason, now)

    def _fault(self, calls: int) -> str:
        window, settings = self._window, self.config
        if window.failures / calls >= settings.failure_rate:
            return f"{window.failures} of the last {calls} calls failed."
        if window.slow / calls >= settings.slow_call_rate:
            return f"{window.slow} of the last {calls} calls took over {settings.slow_call_duration:g} s."
        return ""

    def _force(self, override: Literal["open", "closed"], now: float) -> None:
        self._become(override, f"An operator holds it {override}.", now)

    def _become(self, state: State, reason: str, now: float) -> None:
        before, self.state = self.state, state
        self._first = self._last = self._last + 1
        self._trials = {}
        self._completed = 0
        self._close_at = None
        self._window = CountWindow(self.config.half_open_calls) if state == "half_open" else self._new_window()
        if state == "open":
            self.retry_at = now + self.config.wait_in_open
        if before != state:
            self.since = now
            self._listener(Change(before, state, reason, now))

    def _new_window(self) -> Window:
        size = self.config.sliding_window_size
        return CountWindow(size) if self.config.sliding_window_type == "count" else TimeWindow(size)
