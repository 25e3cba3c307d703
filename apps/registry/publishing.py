"""The seam by which a change to what gateways serve becomes a published revision, in one transaction.

Whoever changes a service, an instance, a route or a policy calls ``changed`` inside the transaction
of the change. The gateway app, which lies above this one, is the publisher and says so when it is
ready. Knows nothing of documents, revisions or Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Publication:
    """What came of a change."""

    revision: int
    new: bool
    """False: the content is what the newest revision already says."""
    delivered: bool | None = None
    """Whether Redis took it; None until the transaction commits. Undelivered revisions follow within
    seconds of Redis coming back."""


class Publisher(Protocol):
    """Compiles, checks and stores a revision in the caller's transaction; ChangeRefused when it doesn't hold."""

    def __call__(self, author: str, reason: str = "") -> Publication: ...


_publisher: list[Publisher] = []


def publish_with(publisher: Publisher) -> None:
    """Name the one publisher; called once, when the apps are ready."""
    _publisher[:] = [publisher]


def changed(author: str, reason: str = "") -> Publication:
    """Publish what the database now says. Call it after the change, inside its transaction."""
    (publisher,) = _publisher
    return publisher(author, reason)
