"""Strange amounts, made at once: what pages must be usable with. Runs as Mission Control's own, like ``fill``,
in a home that is thrown away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apps.events import sequencer
from apps.events.actions import publish_all
from apps.events.letters.models import DeadLetter
from apps.events.models import Subscription
from apps.events.schemas.registry import register
from apps.events.storing import Draft

TYPES, SUBSCRIPTIONS, LETTERS, GROUPS, HOPS = 500, 300, 10_000, 40, 60
LARGE = 1_000_000
"""Characters of the large payload."""
LONG = "a-" * 31 + "z"
"""A name as long as a subscription's may be."""


def flood(types: int = TYPES, subscriptions: int = SUBSCRIPTIONS, letters: int = LETTERS) -> str:
    """Make them all; the id of the last event of the long chain and of the large one."""
    names = [f"flood-{n % 12}.noun-{n % 77}.happened-{n}" for n in range(types)]
    register("flood.very-long." + "x" * 100, {"type": "object"}, author="ann", producer="flood")
    publish_all([Draft(name, {"n": n}, subject=f"flood/{n}") for n, name in enumerate(names)])
    for n, name in enumerate(names):
        register(name, {"type": "object"}, author="ann", producer=f"maker-{n % 60}")
    Subscription.objects.bulk_create([_hook(n, names[n % types]) for n in range(subscriptions)])
    _letters(names, letters)
    chain = _chain()
    (large,) = publish_all([Draft("flood-0.large.sent", {"lines": ["y" * 90] * (LARGE // 95)}, subject="flood/large")])
    sequencer.number()
    return f"{chain} {large.event_id}"


def _hook(n: int, name: str) -> Subscription:
    pattern = name if n % 3 else f"{name.rsplit('.', 1)[0]}.*"
    return Subscription(
        name=LONG if n == 0 else f"flood-{n}",
        patterns=[pattern],
        url="https://example.org/hook",
        position=10**9,
        state="paused" if n % 10 == 9 else "active",
        created_at=datetime.now(UTC),
    )


def _letters(names: list[str], count: int) -> None:
    now = datetime.now(UTC)
    rows = list(Subscription.objects.filter(name__startswith="flood-").order_by("pk")[:20])
    DeadLetter.objects.bulk_create(
        DeadLetter(
            subscription=rows[n % GROUPS % len(rows)],
            source="flood",
            event_id=f"flood-{n}",
            type=names[n % len(names)],
            key=f"flood/{n % 900}",
            place=n,
            body={"data": {"n": n}},
            state="failed",
            reason="handler" if n % 2 else "http_5xx",
            fingerprint=f"f100d{n % GROUPS:011d}",
            error=f"KeyError: 'column {n % GROUPS}'",
            attempts=8,
            first_failed_at=now - timedelta(seconds=n),
            last_failed_at=now - timedelta(seconds=n % 600),
            created_at=now,
        )
        for n in range(count)
    )


def _chain() -> str:
    cause = ""
    for n in range(HOPS):
        draft = Draft(
            f"flood-{n % 3}.hop.made", {"n": n}, subject="flood/chain", causation_id=cause, correlation_id="flood"
        )
        cause = str(publish_all([draft])[0].event_id)
    return cause
