"""The flow map's page: reads who speaks to whom, and has it laid out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import flow as lay
from apps.dashboard.events import groups, kinds
from apps.dashboard.events.flow import Taker, Type
from apps.dashboard.events.links import OURS
from apps.dashboard.events.source import BusSource
from apps.dashboard.judge import bus
from apps.dashboard.judge.own import TITLES
from apps.dashboard.judge.readings import Receiver, Waiting
from apps.dashboard.words import ago, plural
from apps.events.subscriptions.models import Subscription
from apps.lib.clock import wall
from services.kit.events import patterns
from services.kit.events.cloudevent import MAX_TYPE

SAID = 3
"""Subscriptions that the page names before all else."""


@never_cache
@page
def flow(request: HttpRequest) -> HttpResponse:
    """The map of all that flows, or of the types under a prefix; our own that nobody published lately when asked."""
    under = request.GET.get("under", "").strip()[:MAX_TYPE]
    found, rates = kinds.kinds()
    now = wall()
    reports = groups.lately()
    takers = {one.name: taker(one, now) for one in bus.heard(BusSource().read(), reports).receivers}
    waiting = reports.waiting if reports is not None else ()
    gone = list(Subscription.objects.filter(state=Subscription.State.DISABLED).values_list("name", "patterns"))
    types = [_type(kind, rates, takers, gone) for kind in found if not under or f"{kind.name}.".startswith(f"{under}.")]
    idle = [] if under else [one for one in types if one.idle]
    shown = types if "idle" in request.GET else [one for one in types if under or not one.idle]
    concerned = {name for one in shown for name in one.takers}
    known = {name: one for name, one in takers.items() if name in concerned or not under}
    rows = lay.rows_of(shown, known)
    return render(
        request,
        "events/flow.html",
        {
            "nav": "events",
            "section": "flow",
            "under": under,
            "picture": lay.lay_out(rows, known, held(waiting)),
            "rows": [(row, row.takers(known)) for row in rows],
            "shown": len(shown),
            "idle": len(idle),
            "showing_idle": "idle" in request.GET,
            "takers": known,
            "unused": sorted(known.keys() - concerned),
            "wrong": lay.wrong(known)[:SAID],
            "wrongs": len(lay.wrong(known)),
            "unsent": [one.said for one in bus.unsent(waiting, now)],
            "blind": reports is None,
            "untaken": (untaken := [one for one in shown if one.untaken]),
            "untaken_words": f"{plural(len(untaken), 'type')} taken by nobody:",
            "seconds": rates.seconds,
        },
    )


def held(waiting: Sequence[Waiting]) -> dict[str, str]:
    """Publisher → what it can't get rid of."""
    found: dict[str, list[str]] = {}
    for one in waiting:
        if one.away or one.oldest_s > bus.WAITS_S:
            name = OURS if one.publisher in TITLES else one.publisher
            found.setdefault(name, []).append(
                f"{one.events:,} wait for {one.broker}" if one.events else f"{one.broker} is away"
            )
    return {name: " · ".join(said) for name, said in found.items()}


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
    address = f"/events/subscriptions/{one.name}/"
    return Taker(one.name, bus.state(one, now), " · ".join(told), address, one.state != "active")


def _undone(one: Receiver) -> list[tuple[int | None, str]]:
    return [(one.lag, "behind"), (one.parked, "parked"), (one.missing, "missing")]


def _type(kind: Any, rates: kinds.Rates, takers: dict[str, Taker], gone: Sequence[tuple[str, list[str]]]) -> Type:
    """``gone``: subscriptions that would take it if they were not disabled."""
    for name in kind.consumers:
        if name not in takers:
            # Known by its file of what it needs alone.
            takers[name] = Taker(name, "reports", "known by its schema")
    producers = {name: rates.between(name, kind.name) for name in kind.producers}
    missing = [name for name, wanted in gone if any(patterns.matches(one, kind.name) for one in wanted)]
    return Type(kind.name, kind.rate, producers, [*kind.consumers, *missing], kind.seen > 0)
