"""What a consumer needs of its own store. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .lanes import Outcome, Park
from .transport.base import Delivery


@dataclass(frozen=True, slots=True)
class Kept:
    """What a consumer's store holds besides its work."""

    parked: int = 0
    """Events that failed for good, and those behind them."""
    odd: int = 0
    """Entries that were no events."""
    forged: int = 0
    """Events that nobody proved to be of their source."""
    missing: int = 0
    """Events that are known not to have come."""


class Inbox(Protocol):
    """A consumer's own store. Everything raises ``Away`` while the database does not answer."""

    async def begin(self) -> None:
        """A new life: what is parked is due again, except what ended earlier lives."""

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        """Handle these events in order, each with its inbox row, all in one transaction; one outcome each.

        The first is always dealt with; the batch may end early. ``careful``: note first that they are about to be
        handled, so that one that ends the process is known by it in a later life.
        """

    async def park(self, park: Park) -> None:
        """Keep the event as a row; later ones of its key go behind it."""

    async def put_aside(self, batch: Sequence[Delivery]) -> list[bool]:
        """Keep each, which is no event or a forged one, as a row, all in one transaction; False for each that is one
        too many."""

    async def resume(self) -> float:
        """Try the parked events that are due, and on success those behind them; seconds until the next one is."""

    async def kept(self) -> Kept:
        """What it holds."""
