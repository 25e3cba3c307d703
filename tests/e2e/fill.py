"""What a busy week leaves on the bus, made at once: for pictures of pages that have something to show.

Runs as Mission Control's own (``manage.py shell``), in a home that is thrown away.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.events import sequencer
from apps.events.actions import publish_all
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, Subscription
from apps.events.schemas.registry import register
from apps.events.storing import Draft
from apps.lib.clock import wall

LONG = "logistics.consignment.handed-over-to-the-carrier"
KINDS = ("shop.order.placed", "shop.order.packed", "shop.order.returned", "shop.invoice.sent", "bank.sum.moved")
TEXT = {"type": "string"}
SCHEMA = {
    "type": "object",
    "required": ["order"],
    "properties": {
        "order": {"type": "integer"},
        "to": TEXT,
        "total": {"type": "object", "properties": {"amount": TEXT, "currency": TEXT}},
    },
}
FAILURES = (
    (
        "http_5xx",
        "HTTP 503: upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    ),
    ("timeout", "no answer within 10 s"),
    ("handler", "KeyError: 'price'"),
)
STACK = 'Traceback (most recent call last):\n  File "bill.py", line 7, in handle\n    total += line["price"]'


def fill() -> None:
    """Events of several types and works, subscriptions in every state, letters and jobs in every state."""
    register("shop.order.placed", SCHEMA, author="ann", producer="shop")
    _publish()
    _letters(_subscriptions())


def _publish() -> None:
    chance = random.Random(7)
    for n in range(60):
        total = {"amount": f"{n}.50", "currency": "AZR"}
        data = {
            "order": n,
            "to": chance.choice(["Thandi", "Zoë"]),
            "total": total,
            "note": "with a neighbour " * (n % 5),
        }
        cause, work = "", f"work-{n}-{chance.randrange(10**9)}"
        for level, kind in enumerate(chance.sample([*KINDS, LONG, "security.login.failed"], 4)):
            works = work if level < 2 else f"{work}-{level}"
            draft = Draft(kind, data, subject=f"order/{n}", causation_id=cause, correlation_id=works)
            cause = str(publish_all([draft])[0].event_id)
    sequencer.number()


def _subscriptions() -> Subscription:
    """The one that fails."""
    now = datetime.now(UTC)

    def hook(name: str, **more: Any) -> Subscription:
        Subscription.objects.filter(name=name).delete()
        wanted = {"patterns": ["shop.#"], "url": "https://example.org/hook", "position": 10**9, "created_at": now}
        return Subscription.objects.create(name=name, **wanted | more)

    hook("warehouse", patterns=["shop.order.*", "logistics.#"], state="paused", reason="ann paused it: stocktaking")
    gone = "410: the endpoint is gone"
    hook("crm-export-of-the-whole-customer-history", state="disabled", reason=gone, failing_since=now)
    Subscription.objects.update_or_create(name="ledger", defaults={"kind": "consumer", "patterns": ["bank.#"]})
    return hook(
        "billing",
        failures=5,
        failed=12,
        last_error=FAILURES[0][1],
        opened_until=now + timedelta(hours=1),
        failing_since=now - timedelta(minutes=9),
    )


def _letters(broken: Subscription) -> None:
    now, states = datetime.now(UTC), ("redriving", "resolved", "discarded", "parked")
    events = Event.objects.filter(type__startswith="shop.", stream__startswith="order/").order_by("-position")[:40]
    for n, event in enumerate(events):
        reason, error = FAILURES[n % 3]
        letter = queue.fail(broken, event, Failure(reason, error, STACK, permanent=n % 4 != 3), wall())
        if n < len(states):
            closed = now if states[n] in DeadLetter.CLOSED else None
            DeadLetter.objects.filter(pk=letter.pk).update(state=states[n], closed_at=closed, note="by hand")
    for n, state in enumerate(RedriveJob.State.values):
        RedriveJob.objects.create(
            kind=RedriveJob.Kind.values[n % 2],
            subscription=broken,
            state=state,
            actor="ann",
            note="after the price fix",
            total=40,
            succeeded=9 * n,
            failed=n,
            created_at=now,
            # In the hands of nobody who works: it stays as it is.
            holder="nobody",
            leased_until=now + timedelta(days=1),
        )
