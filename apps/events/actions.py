"""The one way to publish an event from inside Mission Control.

The event and its outbox row are written in the caller's transaction: either the change and its
event are both there, or neither is. The relay takes it to the bus afterwards.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F
from opentelemetry import trace

from apps.events.ids import RANDOM_BITS, uuid7
from apps.events.models import Event, OutboxMessage, PartitionSequence, shard_of
from apps.lib import clock, kv
from apps.lib.wire import OUTBOX_CHANNEL
from services.kit.events.cloudevent import EventError, check_data, check_type

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has an identity. An empty ``partition_key`` means the subject, else the source."""

    type: str
    data: dict[str, Any]
    subject: str = ""
    source: str = "mission-control"
    partition_key: str = ""
    causation_id: str = ""

    @property
    def key(self) -> str:
        """What keeps this event in order with others."""
        return self.partition_key or self.subject or self.source


def publish(
    type: str,
    data: dict[str, Any],
    *,
    subject: str = "",
    source: str = "mission-control",
    partition_key: str = "",
    causation_id: str = "",
) -> Event:
    """Store one event and its outbox row in the caller's transaction (or in one of its own).

    ``type`` reads ``domain.noun.verb``; ``data`` is a JSON object of at most 1 MB. Events of one
    ``partition_key`` (default: the subject, else the source) reach the bus in order. EventError,
    before anything is written, for an event that can't be accepted.
    """
    return publish_all([Draft(type, data, subject, source, partition_key, causation_id)])[0]


def publish_all(drafts: Sequence[Draft]) -> list[Event]:
    """``publish`` for several events at once: all of them or none."""
    if not drafts:
        return []
    for draft in drafts:
        _check(draft)
    name = drafts[0].type if len({draft.type for draft in drafts}) == 1 else "events"
    with (
        tracer.start_as_current_span(f"publish {name}", kind=trace.SpanKind.PRODUCER) as span,
        transaction.atomic(),
    ):
        span.set_attributes({"messaging.system": "mission-control", "messaging.batch.message_count": len(drafts)})
        events = _store(drafts, span.get_span_context())
        transaction.on_commit(_nudge)
    return events


def _check(draft: Draft) -> None:
    check_type(draft.type)
    if not isinstance(draft.data, dict):
        raise EventError("The event's data must be a JSON object.")
    check_data(draft.data)
    for name in ("subject", "source", "partition_key"):
        value = getattr(draft, name)
        if len(value) > MAX_TEXT or not value.isprintable():
            raise EventError(f"The event's {name} must be printable text of at most {MAX_TEXT} characters.")
    if not draft.source:
        raise EventError("The event must name its source.")


def _store(drafts: Sequence[Draft], context: trace.SpanContext) -> list[Event]:
    now = clock.wall()
    at = datetime.fromtimestamp(now, UTC)
    traceparent = correlation = ""
    if context.is_valid:
        correlation = format(context.trace_id, "032x")
        traceparent = f"00-{correlation}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    counters = _sequences(Counter(draft.key for draft in drafts))
    events = []
    for draft in drafts:
        counters[draft.key] += 1
        uid = uuid7(now, secrets.randbits(RANDOM_BITS))
        events.append(
            Event(
                event_id=uid,
                type=draft.type,
                source=draft.source,
                subject=draft.subject,
                time=at,
                data=draft.data,
                partition_key=draft.key,
                sequence=counters[draft.key],
                correlation_id=correlation or str(uid),
                causation_id=draft.causation_id,
                traceparent=traceparent,
            )
        )
    Event.objects.bulk_create(events)
    OutboxMessage.objects.bulk_create(
        OutboxMessage(
            event=event,
            topic=event.type.partition(".")[0],
            shard=shard_of(event.partition_key),
            partition_key=event.partition_key,
            next_at=at,
        )
        for event in events
    )
    return events


def _sequences(wanted: Counter[str]) -> dict[str, int]:
    """Reserve ``wanted`` numbers per key; returns the number before the first of each.

    The row stays locked until the caller commits, so a key's sequence is also its commit order.
    Keys are taken in sorted order: two publishers of the same keys can't wait for each other.
    """
    before = {}
    for key in sorted(wanted):
        count = wanted[key]
        rows = PartitionSequence.objects.filter(key=key)
        if not rows.update(last=F("last") + count):
            _, created = PartitionSequence.objects.get_or_create(key=key, defaults={"last": count})
            if not created:
                rows.update(last=F("last") + count)
        before[key] = rows.values_list("last", flat=True).get() - count
    return before


def _nudge() -> None:
    """Tell the relay that rows wait. It polls as well, so a lost nudge costs a second and no event."""
    try:
        kv.client(settings.REDIS_URL).publish(OUTBOX_CHANNEL, "")
    except redis.RedisError as error:
        log.debug("The relay was not nudged: %s", error)
