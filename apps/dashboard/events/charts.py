"""The flow map's page: reads who speaks to whom, and has it laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import groups, kinds
from apps.dashboard.events.flow import Taker, Type, lay_out
from apps.dashboard.events.source import BusSource
from apps.dashboard.judge import bus
from apps.dashboard.judge.readings import Receiver
from apps.dashboard.words import ago, plural
from apps.events.routing.queries import newest
from apps.events.subscriptions.models import Subscription
from apps.lib.clock import wall
from services.kit.events import patterns


@never_cache
@page
def flow(request: HttpRequest) -> HttpResponse:
    found, rates = kinds.kinds()
    rows = list(Subscription.objects.order_by("name"))
    now = wall()
    takers = {one.name: taker(one, now) for one in bus.heard(BusSource().read(), groups.lately()).receivers}
    types = [_type(kind, rates, rows, takers) for kind in found]
    return render(
        request,
        "events/flow.html",
        {
            "nav": "events",
            "section": "flow",
            "picture": lay_out(types, takers),
            "types": sorted(types, key=lambda one: (-one.rate, one.name)),
            "takers": takers,
            "idle": sorted(takers.keys() - {name for one in types for name in one.takers}),
            "seconds": rates.seconds,
            "rules": newest().rules,
        },
    )


def taker(one: Receiver, now: float) -> Taker:
    """A subscription, with what it leaves undone in words."""
    told = []
    if one.state != "active":
        told.append(one.state)
    elif bus.is_broken(one, now):
        told.append("breaker open")
    if failed := one.open.get("failed"):
        told.append(plural(failed, "dead letter"))
    if one.blind:
        told.append("how far is not known")
    elif bus.is_silent(one, now):
        told.append(f"silent for {ago(now - one.heard_at)}" if one.heard_at else "never heard")
    else:
        told += [f"{number:,} {what}" for number, what in _undone(one) if number]
    return Taker(one.name, bus.state(one, now), " · ".join(told), f"/events/subscriptions/{one.name}/")


def _undone(one: Receiver) -> list[tuple[int | None, str]]:
    return [(one.lag, "behind"), (one.parked, "parked"), (one.missing, "missing")]


def _type(kind: Any, rates: kinds.Rates, rows: list[Subscription], takers: dict[str, Taker]) -> Type:
    producers: Mapping[str, float] = {name: rates.between(name, kind.name) for name in kind.producers}
    wanting = [
        row.name for row in rows if row.name in takers and any(patterns.matches(one, kind.name) for one in row.patterns)
    ]
    for name in kind.consumers:
        if name not in wanting:
            # Known by its file of what it needs alone.
            takers.setdefault(name, Taker(name, "reports", "known by its schema"))
            wanting.append(name)
    return Type(kind.name, kind.rate, producers, wanting)
