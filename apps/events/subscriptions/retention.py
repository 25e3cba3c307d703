"""What retention owes to subscriptions: what they have not read stays longer, and what goes all the same is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db.models import F, Max, Q
from opentelemetry import metrics

from apps.events import queries
from apps.events.models import Event
from apps.events.subscriptions.models import Subscription
from apps.events.subscriptions.store import OURS
from services.kit.events import patterns

meter = metrics.get_meter(__name__)
missed = meter.create_counter("mc.subscriptions.missed", description="Events forgotten before a subscription read them")


def unread(old: datetime, oldest: datetime) -> Q | None:
    """Which events older than ``old`` somebody has yet to read, and that are not older than ``oldest``; None for none.

    Those that are disabled keep nothing: they read again only if somebody decides so.
    """
    edge = Event.objects.filter(time__lt=old).aggregate(at=Max("position"))["at"]
    if edge is None:
        return None
    rows = Subscription.objects.filter(kind__in=OURS, position__lt=edge).exclude(state=Subscription.State.DISABLED)
    found = None
    for wanted, source, position in rows.values_list("patterns", "source", "position"):
        one = Q(position__gt=position, time__gte=oldest)
        if (kinds := queries.kinds_like(wanted)) is not None:
            one &= Q(type__in=kinds)
        if source:
            one &= Q(source=source)
        found = one if found is None else found | one
    return found


def tell(events: Sequence[int]) -> None:
    """Count ``events``, which are about to be forgotten, to each subscription that has not read them; in the
    transaction that forgets them. What a condition would have passed over is counted too."""
    rows = list(
        Event.objects.filter(pk__in=events, position__isnull=False, addressee="").values_list(
            "position", "type", "source"
        )
    )
    newest = max((position for position, _, _ in rows), default=0)
    for one in Subscription.objects.filter(kind__in=OURS, position__lt=newest).order_by("pk"):
        kinds = Counter(
            type for position, type, source in rows if position > one.position and one.source in {"", source}
        )
        if count := _wanted(kinds, one.patterns):
            Subscription.objects.filter(pk=one.pk).update(missed=F("missed") + count)
            missed.add(count, {"subscription": one.name})


def _wanted(kinds: Counter[str], wanted: Iterable[str]) -> int:
    wanted = list(wanted)
    return sum(count for type, count in kinds.items() if any(patterns.matches(one, type) for one in wanted))
