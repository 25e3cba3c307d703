"""The subscriptions: how each is, and one with its settings, letters and attempts."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import groups, replays
from apps.dashboard.events.source import follows, receivers
from apps.dashboard.judge import bus
from apps.dashboard.judge.readings import Bus
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.queries import head
from apps.events.subscriptions import rules
from apps.events.subscriptions.models import Attempt, Subscription
from apps.lib import roles
from apps.lib.clock import wall

ATTEMPTS = 50


SHOWN = 100
MOST = 2_000
"""Subscriptions, by name, among which the worst are looked for."""
RANKS = {"failing": 0, "degraded": 1, "unknown": 2, "maintenance": 3}
"""States in the order of the list; what is not here is fine."""


@never_cache
@page
def subscriptions(request: HttpRequest) -> HttpResponse:
    """The worst first, a page of SHOWN at a time; filtered by what is in name, patterns or URL, and by state."""
    q, word = (request.GET.get(name, "").strip()[:128] for name in ("q", "state"))
    said = request.GET.get("from", "")
    start = int(said) if said.isascii() and said.isdigit() and len(said) <= 6 else 0
    found = _rows(list(Subscription.objects.order_by("name")[:MOST]))
    matching = [one for one in found if q.lower() in _text(one["row"]) and word in ("", one["word"])]
    matching.sort(key=lambda one: (RANKS.get(one["state"], len(RANKS)), -one["failed"], one["row"].name))
    return render(
        request,
        "events/subscriptions.html",
        {
            "nav": "events",
            "section": "subscriptions",
            "rows": matching[start : start + SHOWN],
            "total": len(found),
            "bad": sum(one["state"] in {"failing", "degraded", "unknown"} for one in found),
            "matching": len(matching),
            "q": q,
            "word": word,
            "words": sorted({one["word"] for one in found} | ({word} if word else set())),
            "asked": bool(q or word),
            "query": urlencode({name: value for name, value in (("q", q), ("state", word)) if value}),
            "start": start,
            "next": start + SHOWN if len(matching) > start + SHOWN else 0,
            "may_create": roles.has(request.user, roles.ADMIN),
        },
    )


def _text(row: Subscription) -> str:
    """What a search looks into."""
    return " ".join((row.name, row.url, *map(str, row.patterns))).lower()


@never_cache
@page
def subscription(request: HttpRequest, name: str) -> HttpResponse:
    row = Subscription.objects.filter(name=name).first()
    if row is None:
        raise Http404(f"There is no subscription {name}.")
    before = request.GET.get("before", "")
    attempts = Attempt.objects.filter(subscription=row).order_by("-pk")
    if before.isascii() and before.isdigit() and len(before) <= 18:
        attempts = attempts.filter(pk__lt=int(before))
    shown = list(attempts[: ATTEMPTS + 1])
    (one,) = _rows([row])
    return render(
        request,
        "events/subscription.html",
        {
            "nav": "events",
            "section": "subscriptions",
            "row": row,
            "one": one,
            "attempts": shown[:ATTEMPTS],
            "older": shown[ATTEMPTS - 1].pk if len(shown) > ATTEMPTS else None,
            "jobs": list(RedriveJob.objects.filter(subscription=row).order_by("-pk")[:10]),
            "url": row.url if roles.has(request.user, roles.ADMIN) else rules.host_alone(row.url),
            "secrets": 2 if row.previous_until and row.previous_until.timestamp() > wall() else 1,
            "may_act": roles.has(request.user, roles.OPERATOR),
            "may_steer": roles.has(request.user, roles.OPERATOR) and one["follows"],
            "may_change": roles.has(request.user, roles.ADMIN) and row.kind == Subscription.Kind.WEBHOOK,
            **replays.offer(request, row.name if one["follows"] else ""),
        },
    )


def _rows(rows: list[Subscription]) -> list[dict[str, Any]]:
    """Each with what it leaves undone, as it is now."""
    counted = DeadLetter.objects.filter(state__in=DeadLetter.OPEN).order_by()
    if len(rows) == 1:
        counted = counted.filter(subscription=rows[0])
    letters: dict[int, dict[str, int]] = {}
    for pk, state, count in counted.values_list("subscription", "state").annotate(Count("pk")):
        letters.setdefault(pk, {})[state] = count
    now = wall()
    seen = Bus(receivers=receivers(head(), letters, rows))
    reports = groups.lately() if not all(map(follows, rows)) else None
    known = {one.name: one for one in bus.heard(seen, reports).receivers}
    return [
        {
            "row": row,
            "follows": follows(row),
            "seen": known[row.name],
            "state": bus.state(known[row.name], now),
            "word": bus.word(known[row.name], now),
            "silent": bus.is_silent(known[row.name], now),
            "failed": letters.get(row.pk, {}).get("failed", 0),
            "waiting": sum(letters.get(row.pk, {}).values()) - letters.get(row.pk, {}).get("failed", 0),
        }
        for row in rows
    ]
