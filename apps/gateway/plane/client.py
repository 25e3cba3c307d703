"""The seam between an exchange and whatever protocol its client speaks: HTTP/1.1 today."""

from __future__ import annotations

from typing import Protocol

from apps.gateway.core.headers import RequestHead, ResponseHead
from apps.gateway.plane.worker import Worker


class Answered(Protocol):
    """What a client needs to know of the exchange whose answer it writes."""

    method: bytes
    trace_id: bytes
    extra: bytes
    """Fields that the gateway adds to whatever is answered."""


class Client(Protocol):
    """Who asked: the connection, or the stream of one, that takes the answer. Calls nobody while it is called,
    but for ``finished``, which is the last thing that an exchange does."""

    worker: Worker
    address: str
    address_attribute: bytes
    trusted: bool
    blocked: bool
    """It takes no more for now."""

    def origin(self, head: RequestHead) -> bytes:
        """Who asks, as lines for the instance."""

    def go_on(self) -> None:
        """The body is wanted now, if the client waits to be told (100 Continue)."""

    def interim(self, status: int, head: ResponseHead) -> None:
        """A 1xx answer ahead of the real one."""

    def begin(self, exchange: Answered, status: int, head: ResponseHead, body: list[bytes], complete: bool) -> None:
        """The answer's head and what there is of its body; ``complete``: that is all."""

    def more(self, body: list[bytes]) -> None:
        """More of the answer's body."""

    def end(self) -> None:
        """The answer's body is over."""

    def own(self, exchange: Answered, status: int, content_type: str, body: bytes) -> None:
        """A whole answer of the gateway's own."""

    def cut(self) -> None:
        """Half an answer can't be taken back: end the connection so that the client sees it is not whole."""

    def pause(self) -> None:
        """Stop reading the body."""

    def resume(self) -> None:
        """Read on."""

    def drain_by(self, idle: float) -> float:
        """When a client that takes no more is given up."""

    def finished(self) -> None:
        """The exchange is over."""
