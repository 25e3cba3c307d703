"""To whom an event goes and what became of it: by the subscriptions that want it, their letters and their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.dashboard.words import and_list
from apps.events.letters.models import DeadLetter
from apps.events.models import Event
from apps.events.subscriptions.condition import ConditionError
from apps.events.subscriptions.follower import wanted_by
from apps.events.subscriptions.matching import match
from apps.events.subscriptions.models import Attempt, Subscription
from services.kit.events.cloudevent import CloudEvent

MOST = 200
"""Deliveries that are told of, by the names of who wants the event."""
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
    carried, found = event.as_cloudevent(), []
    for row in Subscription.objects.order_by("name").iterator():
        letter = letters.get(row.pk)
        if letter is not None or _wants(row, carried, event.addressee):
            found.append(_delivery(row, event, letter))
        if len(found) == MOST:
            break
    return found


def in_short(deliveries: Sequence[Delivery]) -> tuple[str, str] | None:
    """A state and words for all of them, the worst said; None when nobody wants it or nobody's answer is known."""
    told = [one for one in deliveries if one.state != "reports"]
    for state in ("failing", "degraded", "unknown", "maintenance"):
        if found := [one for one in told if one.state == state]:
            return state, f"{found[0].word}: {and_list([one.subscription for one in found])}"
    return ("healthy", f"taken by {and_list([one.subscription for one in told])}") if told else None


def attempts(event: Event) -> Sequence[Attempt]:
    """The newest requests that carried it."""
    rows = Attempt.objects.filter(source=event.source, event_id=str(event.event_id)).select_related("subscription")
    return list(rows.order_by("-pk")[:ATTEMPTS])


def _wants(row: Subscription, event: CloudEvent, addressee: str) -> bool:
    """Whether patterns, source, addressee and filter let it through."""
    try:
        return match(wanted_by(row), event, addressee).matched
    except ConditionError:
        return False


def _delivery(row: Subscription, event: Event, letter: DeadLetter | None) -> Delivery:
    if letter is not None:
        state, word = WORDS[letter.state]
        return Delivery(row.name, row.kind, state, word, letter.error, letter.pk)
    if row.kind == Subscription.Kind.CONSUMER:
        return Delivery(row.name, row.kind, "reports", "reads its broker", "its way says whether it was handled")
    if event.position is not None and row.position >= event.position:
        return Delivery(row.name, row.kind, "healthy", "taken", "at the first try, or before it was there")
    if row.state != Subscription.State.ACTIVE:
        return Delivery(row.name, row.kind, "maintenance", f"waits: {row.state}", row.reason)
    return Delivery(row.name, row.kind, "unknown", "not yet", f"it is at position {row.position:,}")
