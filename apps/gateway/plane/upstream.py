"""Instances and the attempts made on them: connections opened on demand, kept, and given to one attempt at a time.

An ``Attempt`` is one try at one instance. It has an identity, holds at most one connection and one place of the
instance's limit, and gives both back once. An attempt that was given up never calls anyone again, however late
its connection comes. Callbacks, not coroutines: a request on a kept connection costs no task and no future.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from apps.gateway.core import patience
from apps.gateway.core.headers import ResponseHead
from apps.gateway.core.trace import Text
from apps.gateway.plane.upstream_http1 import UpstreamConnection
from apps.gateway.plane.writes import Writes

_INSTANCE = Text("mc.instance")

Guard = Callable[[str, int], bool]
"""Whether this address and port may be spoken to; asked of each resolved address before it is connected to."""


class User(Protocol):
    """Who makes attempts. Each call names the attempt; nothing is ever called from within ``Instance.acquire``."""

    def upstream_ready(self, attempt: Attempt) -> None:
        """The attempt has its connection now."""

    def upstream_received(self, attempt: Attempt) -> None:
        """The answer has begun, gone on or ended."""

    def upstream_interim(self, attempt: Attempt, status: int, head: ResponseHead) -> None:
        """A 1xx answer ahead of the real one."""

    def upstream_failed(self, attempt: Attempt) -> None:
        """The attempt came to nothing, ``attempt.failure`` says how; it has been given back."""

    def upstream_filled(self, attempt: Attempt) -> None:
        """The upstream takes no more of the request for now."""

    def upstream_drained(self, attempt: Attempt) -> None:
        """The upstream takes more of the request."""


class Attempt:
    """One try at one instance: its connection, or why there is none; neither while it is being opened."""

    detail: str
    """The failure as a sentence."""
    heard: bool
    """A byte of an answer came before it failed."""
    unsent: bool
    """Not a byte of the request had left when it failed."""

    __slots__ = ("_user", "connection", "detail", "failure", "heard", "instance", "reused", "unsent")

    def __init__(self, instance: Instance, user: User) -> None:
        self.instance = instance
        self.connection: UpstreamConnection | None = None
        self.failure = ""
        self.reused = False
        """On a connection that has served before, which may have been closing when it was taken."""
        self._user: User | None = user

    def __repr__(self) -> str:
        state = self.failure or ("connected" if self.connection is not None else "connecting")
        return f"<Attempt at {self.instance.key}: {state if self._user is not None else 'over'}>"

    @property
    def over(self) -> bool:
        """Given back."""
        return self._user is None

    def close(self, *, reusable: bool = False) -> None:
        """Give everything back. ``reusable``: the request went out whole, so the connection may serve again."""
        if self._user is None:
            return
        self._user = None
        connection, self.connection = self.connection, None
        if connection is not None:
            self.instance.release(connection, reusable)
        # Else it is being opened: the place is the dial's until that ends.

    # -- for the instance and the connection --------------------------------------------------------

    def arrived(self, connection: UpstreamConnection) -> bool:
        """Its connection is open; False when nobody wants it any more."""
        if self._user is None:
            return False
        self.connection = connection
        connection.holder = self
        self._user.upstream_ready(self)
        return True

    def refused(self, failure: str, detail: str) -> User | None:
        """There is no connection and won't be; who must be told."""
        user, self._user = self._user, None
        self.fail(failure, detail)
        return user

    def fail(self, failure: str, detail: str) -> None:
        """Note how it failed."""
        self.failure, self.detail = failure, detail
        connection = self.connection
        self.heard = connection is not None and connection.heard
        self.unsent = connection is None or connection.withdraw()

    def received(self) -> None:
        """See Holder."""
        if self._user is not None:
            self._user.upstream_received(self)

    def interim(self, status: int, head: ResponseHead) -> None:
        """See Holder."""
        if self._user is not None:
            self._user.upstream_interim(self, status, head)

    def failed(self, failure: str, detail: str) -> None:
        """See Holder."""
        user, connection = self._user, self.connection
        if user is None or connection is None:
            return
        self.fail(failure, detail)
        self.close()
        user.upstream_failed(self)

    def filled(self) -> None:
        """See Holder."""
        if self._user is not None:
            self._user.upstream_filled(self)

    def drained(self) -> None:
        """See Holder."""
        if self._user is not None:
            self._user.upstream_drained(self)


class Instance:
    """One process of a service and the connections to it."""

    __slots__ = (
        "_dials",
        "_guard",
        "_loop",
        "_tls",
        "attribute",
        "avoid_until",
        "connect_timeout",
        "connections",
        "head",
        "host",
        "idle",
        "in_flight",
        "key",
        "limit",
        "port",
        "retired",
        "tls",
        "weight",
        "writes",
    )

    def __init__(
        self,
        key: str,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        guard: Guard | None = None,
        writes: Writes | None = None,
    ) -> None:
        self.key = key
        self.attribute = _INSTANCE.encode(key.encode())
        """Of the spans of requests that it was asked last."""
        self.host = host
        self.port = port
        self.weight = 1
        self.limit = 256
        self.connect_timeout = 1.0
        self.head = b""
        """Fields that every request to this instance carries, Host above all."""
        self.in_flight = 0
        """Places taken: attempts that hold a connection, and connections being opened."""
        self.avoid_until = 0.0
        self.retired = False
        self.idle: list[UpstreamConnection] = []
        self.connections: set[UpstreamConnection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._tls = tls
        self.tls = tls is not None
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.writes = writes or Writes()

    def acquire(self, user: User, *, fresh: bool = False) -> Attempt:
        """A new attempt: with a connection at once, refused at once, or to be told later. ``fresh``: not on a kept
        connection. Calls nobody, so that the caller knows the attempt before anything can happen to it."""
        attempt = Attempt(self, user)
        idle = self.idle
        if idle and not fresh:
            oldest = monotonic() - patience.UPSTREAM_IDLE_SECONDS
            while idle:
                connection = idle.pop()
                if connection.fit(oldest):
                    self.in_flight += 1
                    attempt.connection = connection
                    connection.holder = attempt
                    attempt.reused = True
                    return attempt
                connection.close()
        if self.in_flight >= self.limit:
            attempt.refused("upstream_overloaded", f"All {self.limit} connections to {self.key} are in use.")
            return attempt
        self.in_flight += 1
        self._dial(attempt)
        return attempt

    def release(self, connection: UpstreamConnection, reusable: bool) -> None:
        """An attempt is over: keep its connection for the next, or close it. ``reusable``: the request went out whole;
        so must the answer have come, with nothing behind it."""
        self.in_flight -= 1
        assert self.in_flight >= 0  # noqa: S101 - the one place where it goes down for a connection that was held
        if reusable and connection.done and connection.keep and not connection.broken:
            self.keep(connection)
        else:
            connection.close()

    def keep(self, connection: UpstreamConnection) -> None:
        """One more idle connection, if there is use for it."""
        idle = self.idle
        if self.retired or len(idle) >= self.limit:
            connection.close()
        else:
            connection.rest()
            idle.append(connection)

    # -- connecting ---------------------------------------------------------------------------------

    def _dial(self, attempt: Attempt) -> None:
        task = self._loop.create_task(self._connect(attempt))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self, attempt: Attempt) -> None:
        try:
            async with asyncio.timeout(self.connect_timeout):
                connection = await self._open()
        except TimeoutError:
            detail = f"{self.key} did not accept a connection within {self.connect_timeout:g} s."
            self._unreachable(attempt, "upstream_connect_timeout", detail)
        except (OSError, ssl.CertificateError) as error:
            detail = f"{self.key} can't be reached ({error.strerror or error})."
            self._unreachable(attempt, "upstream_connect_failed", detail)
        except AddressRefused:
            self._unreachable(attempt, "upstream_address_refused", f"The address of {self.key} is not allowed.")
        except asyncio.CancelledError:
            self.in_flight -= 1
            raise
        else:
            self._connected(attempt, connection)

    async def _open(self) -> UpstreamConnection:
        """A connection to the first address that is allowed and answers."""
        found = await self._loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(info[4][0]) for info in found)
        if self._guard is not None:
            addresses = dict.fromkeys(address for address in addresses if self._guard(address, self.port))
        error: OSError | None = None
        for address in addresses:
            try:
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self),
                    address,
                    self.port,
                    ssl=self._tls,
                    # The certificate is for the name, whatever address it led to.
                    server_hostname=self.host if self._tls is not None else None,
                )
            except OSError as failure:
                error = failure
            else:
                return connection
        raise error or AddressRefused

    def _connected(self, attempt: Attempt, connection: UpstreamConnection) -> None:
        if not attempt.arrived(connection):
            self.in_flight -= 1
            self.keep(connection)

    def _unreachable(self, attempt: Attempt, failure: str, detail: str) -> None:
        self.in_flight -= 1
        self.avoid_until = monotonic() + patience.AVOID_SECONDS
        user = attempt.refused(failure, detail)
        if user is not None:
            user.upstream_failed(attempt)

    # -- for the connections ------------------------------------------------------------------------

    def opened(self, connection: UpstreamConnection) -> None:
        """A connection is there."""
        self.connections.add(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    # -- life ---------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Close connections that have been nobody's for too long, be they among the idle ones or astray."""
        oldest = now - patience.UPSTREAM_IDLE_SECONDS
        stale = [each for each in self.connections if each.holder is None and not each.fit(oldest)]
        for connection in stale:
            connection.close()
            if connection in self.idle:
                self.idle.remove(connection)

    def retire(self) -> None:
        """Out of the configuration: idle connections close now, busy ones when their answer is done."""
        self.retired = True
        idle, self.idle[:] = list(self.idle), []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """The worker ends: every connection does."""
        self.retire()
        for task in self._dials:
            task.cancel()
        for connection in list(self.connections):
            connection.close()


class AddressRefused(Exception):
    """The guard let none of the addresses pass."""
