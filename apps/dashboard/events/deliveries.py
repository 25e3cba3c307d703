"""To whom an event goes and what became of it: by the subscriptions that want it, their letters and their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps.events.letters.models import DeadLetter
from apps.events.models import Event
from apps.events.subscriptions.models import Attempt, Subscription
from services.kit.events import patterns

MOST = 200
ATTEMPTS = 20
WORDS = {
    "retrying": ("degraded", "tried again"),
    "parked": ("degraded", "waits behind"),
    "failed": ("failing", "dead letter"),
    "redriving": ("degraded", "redriven now"),
    "resolved": ("healthy", "taken in the end"),
    "discarded": ("maintenance", "discarded"),
}
"""State of a letter → how it is drawn, and in words."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One subscription's part in an event. ``state`` as services have them."""

    subscription: str
    kind: str
    state: str
    word: str
    detail: str = ""
    letter: int | None = None


def of(event: Event) -> Sequence[Delivery]:
    """What became of ``event`` at each subscription that wants it, or has a letter of it."""
    letters = {
        letter.subscription_id: letter
        for letter in DeadLetter.objects.filter(stored=event).defer("stack", "body").order_by("pk")[:MOST]
    }
    found = []
    for row in Subscription.objects.order_by("name")[:MOST]:
        letter = letters.get(row.pk)
        if letter is not None or wants(row, event):
            found.append(_delivery(row, event, letter))
    return found


def attempts(event: Event) -> Sequence[Attempt]:
    """The newest requests that carried it."""
    rows = Attempt.objects.filter(source=event.source, event_id=str(event.event_id)).select_related("subscription")
    return list(rows.order_by("-pk")[:ATTEMPTS])


def wants(row: Any, event: Any) -> bool:
    """Whether patterns, source and addressee let it through; a filter may still leave it out."""
    if event.addressee:
        return bool(event.addressee == row.name)
    if row.source and row.source != event.source:
        return False
    return any(patterns.matches(one, event.type) for one in row.patterns)


def _delivery(row: Subscription, event: Event, letter: DeadLetter | None) -> Delivery:
    if letter is not None:
        state, word = WORDS[letter.state]
        return Delivery(row.name, row.kind, state, word, letter.error, letter.pk)
    if row.kind == Subscription.Kind.CONSUMER:
        return Delivery(row.name, row.kind, "reports", "reads its broker", "its way says whether it was handled")
    if event.position is not None and row.position >= event.position:
        word = "taken, or left out by its filter" if row.filter else "taken"
        return Delivery(row.name, row.kind, "healthy", word, "at the first try, or before it was there")
    if row.state != Subscription.State.ACTIVE:
        return Delivery(row.name, row.kind, "maintenance", f"waits: {row.state}", row.reason)
    return Delivery(row.name, row.kind, "unknown", "not yet", f"it is at position {row.position:,}")
