"""How long a peer of the control process may take, and how many there may be.

Twisted's own timeout begins anew with every byte, so a head or body of one byte a second holds a
connection for ever, and an answer that its peer doesn't read is kept as long as the peer likes.
Here each state of a connection has a deadline of its own. ``overdue`` and ``Watch.look`` decide and
are pure; ``install`` is the shell: it looks at every connection once a second.

Sockets that have become WebSockets are counted and otherwise left to apps.dashboard, which closes
those that stay silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry import metrics
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.web.http import HTTPChannel

from apps.lib.clock import monotonic
from missioncontrol.refusals import refuse
from services.kit.problem import Problem

State = Literal["idle", "head", "body", "work", "leaving"]

UNREAD_S = 120.0
"""Longest time for which an answer may wait to be read."""
SECONDS: dict[State, float] = {"idle": 60.0, "head": 10.0, "body": 30.0, "leaving": UNREAD_S}
"""Longest stay in a state. How long the work itself may take is for who does it."""
EVERY_S = 1.0

LATE = Problem(408, "request_timeout", "The request took too long to arrive.")
FULL = Problem(503, "too_many_connections", "The control process has as many connections as it takes.", retry_after=5)

_cut = metrics.get_meter("mission-control").create_counter(
    "mc.control.cut", unit="{connection}", description="Connections ended for being too slow, by state"
)


def overdue(state: State, age: float, unread: float) -> bool:
    """Whether a connection ends that is in ``state`` for ``age`` seconds, with an answer unread for ``unread``."""
    return unread > UNREAD_S or age > SECONDS.get(state, float("inf"))


@dataclass(slots=True)
class Watch:
    """One connection as it was when last looked at."""

    since: float
    state: State = "idle"
    request: Any = None
    unread_since: float | None = None

    def look(self, state: State, request: Any, unread: bool, now: float) -> bool:
        """Note what it is like now; True when it is overdue. The next request's head is another head."""
        if state != self.state or request is not self.request:
            self.state, self.request, self.since = state, request, now
        self.unread_since = (now if self.unread_since is None else self.unread_since) if unread else None
        return overdue(state, now - self.since, 0.0 if self.unread_since is None else now - self.unread_since)


class Connections:
    """Every open connection of this process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._http: dict[Any, Watch] = {}
        self._sockets: set[Any] = set()

    def __len__(self) -> int:
        return len(self._http) + len(self._sockets)

    def made(self, channel: Any) -> None:
        """A peer has connected; past the limit it is told so and let go."""
        full = len(self) >= self._most
        self._http[channel] = Watch(monotonic())
        if full:
            refuse(channel, FULL)

    def lost(self, channel: Any) -> None:
        """It has gone."""
        self._http.pop(channel, None)

    def sweep(self) -> None:
        """Look at each; end what is overdue."""
        now = monotonic()
        self._sockets = {transport for transport in self._sockets if transport.connected}
        for channel, watch in list(self._http.items()):
            transport = channel.transport
            if not transport.connected:
                self.lost(channel)
            elif getattr(transport.protocol, "_channel", channel) is not channel or not _http(transport):
                # A WebSocket has taken the transport over.
                self.lost(channel)
                self._sockets.add(transport)
            elif watch.look(_state(channel), _request(channel), _unread(transport), now):
                self._end(channel, watch)

    def _end(self, channel: Any, watch: Watch) -> None:
        _cut.add(1, {"state": "unread" if watch.state == "work" else watch.state})
        if watch.state in {"head", "body"}:
            refuse(channel, LATE)
        elif watch.state == "idle" and watch.unread_since is None:
            channel.loseConnection()
        else:
            channel.transport.abortConnection()


def install(most: int) -> Connections:
    """Watch every connection from now on; ``most`` may be open at once."""
    connections = Connections(most)
    HTTPChannel.connectionMade = _then(HTTPChannel.connectionMade, connections.made)
    HTTPChannel.connectionLost = _then(HTTPChannel.connectionLost, connections.lost)
    reactor.callWhenRunning(LoopingCall(connections.sweep).start, EVERY_S)
    return connections


def _then(first: Any, second: Any) -> Any:
    def both(channel: Any, *args: Any) -> None:
        first(channel, *args)
        second(channel)

    return both


def _http(transport: Any) -> bool:
    return hasattr(transport.protocol, "_channel") or isinstance(transport.protocol, HTTPChannel)


def _state(channel: Any) -> State:
    if channel.transport.disconnecting:
        return "leaving"
    if channel._handlingRequest:
        return "work"
    if channel.requests and not channel.line_mode:
        return "body"
    return "head" if channel.requests or channel._buffer else "idle"


def _request(channel: Any) -> Any:
    return channel.requests[-1] if channel.requests else None


def _unread(transport: Any) -> bool:
    """Bytes of an answer that the peer's window had no room for."""
    return bool(transport.dataBuffer or transport._tempDataBuffer)
