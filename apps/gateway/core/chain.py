"""A route's policies as a worker runs them: hooks on the request and on the answer, in one order.

Owns the seam between an exchange and its policies: what a hook sees, how it refuses, how it waits and goes on. A chain
is bound once per route and revision, so a request pays for the hooks of its route and for nothing else. Which
policies there are and in what order is apps.gateway.plane.policies' to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from apps.gateway.core.auth import Identity
from apps.gateway.core.headers import RequestHead, ResponseHead


class Peer(Protocol):
    """Who is at the other end of the connection."""

    address: str
    trusted: bool


class Call(Protocol):
    """A request as its policies see it, and as far as they may change it."""

    head: RequestHead
    """What goes on of it is changed here."""
    identity: Identity | None
    """Who calls; None until that is proven, and on a public route."""
    extra: bytes
    """Lines, ready to send, that are added to whatever is answered: a refusal too."""
    credentials: bytes
    """Lines, ready to send, that the service alone is sent."""
    now: float
    """The moment of this turn, on the monotonic clock."""

    @property
    def client(self) -> Peer: ...

    @property
    def started_ns(self) -> int:
        """When it came, on the wall clock."""

    @property
    def body_size(self) -> int:
        """Bytes of its body that have come so far."""

    @property
    def trace_id(self) -> bytes:
        """In hex."""

    @property
    def span_id(self) -> bytes: ...

    def resume(self, word: bool = True) -> None:
        """What it waits for has come about, and says ``word``: for whoever a hook had it wait for.

        Once, and never from within the hook. It may come late: of an exchange that is over nothing happens.
        """


class Later(NamedTuple):
    """What a hook returns when it can't say yet."""

    waits: str
    """What for, as metrics and reports name it; one of a few words."""
    then: Callable[[Call, bool], Later | None]
    """Called with the word that ``Call.resume`` brings, in place of the hook; it may refuse, or wait once more."""


RequestHook = Callable[[Call], Later | None]
"""Lets a request pass (None), has it wait, or raises Refused."""

AnswerHook = Callable[[Call, ResponseHead], None]
"""Changes the head of a service's answer before any of it goes to the client. It can't refuse, nor wait."""


class Chain(NamedTuple):
    """The hooks of one route, in the order in which they run."""

    request: tuple[RequestHook, ...] = ()
    answer: tuple[AnswerHook, ...] = ()


UNPOLICED = Chain()
"""Of a route that asks nothing."""
