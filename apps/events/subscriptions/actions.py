"""Changes of subscriptions by people. Each counts the row's revision up: whoever delivers begins anew with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from auditlog.models import LogEntry
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Min

from apps.events import queries
from apps.events.models import Event
from apps.events.nudges import nudge
from apps.events.subscriptions import locked, rules, sending, signature
from apps.events.subscriptions.core import Outcome
from apps.events.subscriptions.follower import keys_of
from apps.events.subscriptions.models import Attempt, Subscription
from apps.lib import aio, clock
from apps.lib.wire import SUBSCRIPTIONS_CHANNEL
from services.kit.problem import refuse

MOST: Final = 1000
"""Subscriptions of one installation."""
OVERLAP_S: Final = 86_400
"""How long a secret that was replaced still signs, unless somebody says otherwise."""
TEST_S: Final = 10.0
LOOK: Final = 1000
"""Events that are looked at for the first one of a time."""
State = Subscription.State


def create(fields: Mapping[str, Any], start: str = "now") -> tuple[Subscription, str]:
    """A webhook, and its secret, which is shown this once. ValidationError by field; 409 for a name that is taken."""
    rules.check({"url": "", "patterns": [], **fields}, settings.ADDRESS_GUARD)
    if Subscription.objects.count() >= MOST:
        raise refuse(409, "too_many_subscriptions", f"There are {MOST:,} subscriptions, which is the most.")
    secret = signature.new_secret()
    row = Subscription(**fields, kind=Subscription.Kind.WEBHOOK, position=position_of(start))
    row.secret = locked.lock(secret, row.name)
    row.save()
    _tell()
    return row, secret


def change(subscription: Subscription, fields: Mapping[str, Any]) -> Subscription:
    """Change what it wants and how it is delivered; 409 for one that is not a webhook."""
    rules.check(fields, settings.ADDRESS_GUARD)
    with transaction.atomic():
        row = webhook(subscription.pk)
        if fields.get("url", row.url) != row.url or fields.get("handshake", False) > row.handshake:
            # Another endpoint: nothing is known of it yet.
            row.allowed_at, row.failures, row.failing_since, row.opened_until = None, 0, None, None
            row.allowed_rate = 0.0
        for name, value in fields.items():
            setattr(row, name, value)
        again = ["allowed_at", "allowed_rate", "failures", "failing_since", "opened_until"]
        return _save(row, *fields, *again)


def pause(subscription: Subscription) -> Subscription:
    """Deliver nothing until it is resumed; its events wait in the log."""
    with transaction.atomic():
        row = _ours(subscription.pk)
        if row.state == State.DISABLED:
            raise refuse(409, "disabled", f"{row.name} is disabled; enable it instead.")
        row.state, row.reason = State.PAUSED, ""
        return _save(row, "state", "reason")


def resume(subscription: Subscription) -> Subscription:
    """Deliver (again), from where it stood; what is known of its endpoint is forgotten, so that it is tried at once."""
    with transaction.atomic():
        row = _ours(subscription.pk)
        row.state, row.reason = State.ACTIVE, ""
        row.failures, row.failing_since, row.opened_until = 0, None, None
        return _save(row, "state", "reason", "failures", "failing_since", "opened_until")


def disable(subscription: Subscription, reason: str = "") -> Subscription:
    """Deliver nothing until it is enabled."""
    with transaction.atomic():
        row = _ours(subscription.pk)
        row.state, row.reason = State.DISABLED, reason
        return _save(row, "state", "reason")


def seek(subscription: Subscription, start: str) -> Subscription:
    """Go on from another place in the log: back, for events to come again; forward, to pass some over.

    What is under way now and has not been stored comes again too.
    """
    with transaction.atomic():
        row = _ours(subscription.pk)
        row.position = position_of(start)
        # Whoever delivers must not store where it stood.
        row.holder, row.until = "", None
        return _save(row, "position", "holder", "until")


def rotate(subscription: Subscription, overlap_s: int = OVERLAP_S, reason: str = "") -> str:
    """A new secret, which is shown this once; for ``overlap_s`` seconds the old one signs beside it."""
    with transaction.atomic():
        row = webhook(subscription.pk)
        secret = signature.new_secret()
        row.previous_secret, row.secret = row.secret, locked.lock(secret, row.name)
        row.previous_until = datetime.fromtimestamp(clock.wall(), UTC) + timedelta(seconds=overlap_s)
        _save(row, "secret", "previous_secret", "previous_until")
        if reason:
            said = {"rotated": ["", reason]}
            LogEntry.objects.log_create(row, force_log=True, action=LogEntry.Action.UPDATE, changes=said)
    return secret


def delete(subscription: Subscription) -> None:
    """Forget it, with its attempts and dead letters; 409 for a handler of our own."""
    with transaction.atomic():
        row = Subscription.objects.select_for_update().get(pk=subscription.pk)
        if row.kind == Subscription.Kind.INTERNAL:
            raise refuse(409, "internal", f"{row.name} belongs to Mission Control itself.")
        row.delete()
    _tell()


def test(subscription: Subscription) -> Outcome:
    """Send an event that tells of nothing, now and once, and say what came of it. It is among the attempts."""
    if subscription.kind != Subscription.Kind.WEBHOOK:
        raise refuse(409, "no_webhook", f"{subscription.name} has no endpoint.")
    now = clock.wall()
    try:
        keys = keys_of(subscription, now)
    except locked.Unreadable as error:
        raise refuse(409, "secret_unreadable", str(error)) from None
    structured = subscription.mode == Subscription.Mode.STRUCTURED
    within = min(subscription.timeout_s, TEST_S)
    endpoint = sending.Endpoint(subscription.url, keys, structured, within, subscription.name)
    event = sending.sample(now)
    outcome = aio.run(_send(event, endpoint))
    Attempt.objects.create(
        subscription=subscription,
        source=event.source,
        event_id=event.id,
        type=event.type,
        at=datetime.fromtimestamp(outcome.at, UTC),
        duration_ms=round(outcome.took_s * 1000),
        outcome=outcome.reason,
        status=outcome.status,
        error=outcome.error,
        answer=outcome.answer,
    )
    return outcome


async def _send(event: Any, endpoint: sending.Endpoint) -> Outcome:
    async with sending.session(settings.VERSION, settings.ADDRESS_GUARD) as http:
        return await sending.deliver(http, event, endpoint)


def position_of(start: str) -> int:
    """Where a reader begins: behind this position. ValidationError for a start that is none."""
    if start == "now":
        return queries.head()
    if start == "beginning":
        return 0
    if start.isascii() and start.isdigit() and len(start) <= 18:
        return max(int(start) - 1, 0)
    try:
        at = datetime.fromisoformat(start)
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError(
            {"start": "Begin with now, beginning, a position in the log, or an RFC 3339 time."}
        ) from None
    earliest = Event.objects.filter(time__gte=at, position__isnull=False).order_by("time").values("pk")[:LOOK]
    first = Event.objects.filter(pk__in=list(earliest.values_list("pk", flat=True))).aggregate(at=Min("position"))["at"]
    return queries.head() if first is None else int(first) - 1


def webhook(pk: int) -> Subscription:
    """The row, locked; 409 when it is not a webhook."""
    row = Subscription.objects.select_for_update().get(pk=pk)
    if row.kind != Subscription.Kind.WEBHOOK:
        raise refuse(409, "no_webhook", f"{row.name} is not a webhook: what it gets is said in its code.")
    return row


def _ours(pk: int) -> Subscription:
    row = Subscription.objects.select_for_update().get(pk=pk)
    if row.kind == Subscription.Kind.CONSUMER:
        raise refuse(409, "consumer", f"{row.name} reads from its broker by itself: stop its service instead.")
    return row


def _save(row: Subscription, *fields: str) -> Subscription:
    row.revision += 1
    row.save(update_fields=[*dict.fromkeys(fields), "revision"])
    _tell()
    return row


def _tell() -> None:
    transaction.on_commit(partial(nudge, SUBSCRIPTIONS_CHANNEL))
