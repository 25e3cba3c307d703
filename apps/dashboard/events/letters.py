"""Dead letters: groups of those that failed alike, the letters of one group, one letter, and jobs that redrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, Max, Min, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.dashboard.access import page
from apps.dashboard.events import document, lineage
from apps.dashboard.events.pages import schema_of, trace_of
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event
from apps.events.queries import matching
from apps.events.subscriptions.models import Subscription
from apps.lib import roles
from apps.lib.clock import wall
from services.kit.events.patterns import PatternError

GROUPS = 100
LETTERS = 50
JOBS = 20
EARLIER = 5
LATELY_S = 300.0
"""Seconds for which a job that has ended stays beside those under way: its end is what was waited for."""
STATES = {
    "open": DeadLetter.OPEN,
    "failed": (DeadLetter.State.FAILED,),
    "retrying": (DeadLetter.State.RETRYING,),
    "parked": (DeadLetter.State.PARKED,),
    "redriving": (DeadLetter.State.REDRIVING,),
    "resolved": (DeadLetter.State.RESOLVED,),
    "discarded": (DeadLetter.State.DISCARDED,),
}
TITLES = {
    "open": "open",
    "failed": "given up",
    "retrying": "tried again",
    "parked": "waiting behind",
    "redriving": "redriven now",
    "resolved": "taken in the end",
    "discarded": "discarded",
}
FILTERS = ("subscription", "state", "type", "reason", "fingerprint", "key", "q")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for."""

    words: dict[str, str]
    problem: str = ""

    @property
    def state(self) -> str:
        return self.words.get("state", "open")


def asked(request: HttpRequest) -> Asked:
    words = {name: value[:600] for name in FILTERS if (value := request.GET.get(name, "").strip())}
    if words.get("state", "open") not in STATES:
        words.pop("state")
        return Asked(words, f"A state is one of {', '.join(STATES)}.")
    return Asked(words)


def rows_of(wanted: Asked) -> Any:
    """PatternError for a type that is no pattern."""
    rows = DeadLetter.objects.filter(state__in=STATES[wanted.state])
    words = wanted.words
    if "subscription" in words:
        rows = rows.filter(subscription__name=words["subscription"])
    for name in ("reason", "fingerprint", "key"):
        if name in words:
            rows = rows.filter(**{name: words[name]})
    if "type" in words:
        rows = matching(rows, [words["type"]])
    if "q" in words:
        rows = rows.filter(Q(error__icontains=words["q"]) | Q(event_id__icontains=words["q"]))
    return rows


@never_cache
@page
def letters(request: HttpRequest) -> HttpResponse:
    wanted = asked(request)
    problem, groups, listed, older = wanted.problem, [], [], None
    counts = dict.fromkeys(map(str, DeadLetter.State.values), 0)
    try:
        rows = rows_of(wanted)
        if "fingerprint" in wanted.words or "key" in wanted.words:
            listed, older = _listed(request, rows)
        else:
            groups = _groups(rows)
        per_state = rows_of(Asked({**wanted.words, "state": "open"})).order_by()
        counts |= dict(per_state.values_list("state").annotate(Count("pk")))
    except PatternError as error:
        problem = f"Type: {error}"
    return render(
        request,
        "events/letters.html",
        {
            "nav": "events",
            "section": "dead-letters",
            "asked": wanted,
            "problem": problem,
            "groups": groups,
            "letters": listed,
            "older": older,
            "counts": counts,
            "query": urlencode(wanted.words),
            "names": list(Subscription.objects.order_by("name").values_list("name", flat=True)[:500]),
            "states": TITLES.items(),
            "cut": len(groups) == GROUPS,
            **jobs(wanted.words.get("subscription", "")),
            "may_act": roles.has(request.user, roles.OPERATOR),
        },
        status=400 if problem else 200,
    )


def _groups(rows: Any) -> list[dict[str, Any]]:
    """Those that failed alike, the newest failure first; what is parked behind others has not failed."""
    found = list(
        rows.exclude(fingerprint="")
        .order_by()
        .values("fingerprint", "subscription__name", "reason")
        .annotate(
            count=Count("pk"),
            keys=Count("key", distinct=True),
            failed=Count("pk", filter=Q(state=DeadLetter.State.FAILED)),
            retrying=Count("pk", filter=Q(state=DeadLetter.State.RETRYING)),
            redriving=Count("pk", filter=Q(state=DeadLetter.State.REDRIVING)),
            first=Min("first_failed_at"),
            last=Max("last_failed_at"),
            sample=Max("pk"),
        )
        .order_by("-last")[:GROUPS]
    )
    samples = DeadLetter.objects.defer("stack", "body").in_bulk([one["sample"] for one in found])
    return [one | {"letter": samples[one["sample"]], "told": _told(one)} for one in found if one["sample"] in samples]


def _told(group: dict[str, Any]) -> str:
    """What becomes of the group's letters, unless all are given up."""
    parts = [(group[name], TITLES[name]) for name in ("failed", "retrying", "redriving") if group[name]]
    if [name for _, name in parts] in ([TITLES["failed"]], []):
        return ""
    return " · ".join(f"{count:,} {title}" for count, title in parts)


def _listed(request: HttpRequest, rows: Any) -> tuple[list[DeadLetter], int | None]:
    before = request.GET.get("before", "")
    if before.isascii() and before.isdigit() and len(before) <= 18:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows.select_related("subscription").defer("stack", "body").order_by("-pk")[: LETTERS + 1])
    return found[:LETTERS], found[LETTERS - 1].pk if len(found) > LETTERS else None


@never_cache
@page
def letter(request: HttpRequest, pk: int) -> HttpResponse:
    one = DeadLetter.objects.select_related("subscription", "stored", "job", "replaced_by").filter(pk=pk).first()
    if one is None:
        raise Http404("There is no such dead letter, or it was closed and is past its retention.")
    event: Event | None = one.stored
    data = event.data if event is not None else one.body.get("data") if isinstance(one.body, dict) else one.body
    faults, schema, said = schema_of(event) if event is not None else ((), None, "The event is not in the log.")
    behind = DeadLetter.objects.filter(subscription=one.subscription, key=one.key, state__in=DeadLetter.OPEN)
    return render(
        request,
        "events/letter.html",
        {
            "nav": "events",
            "section": "dead-letters",
            "letter": one,
            "event": event,
            "data": data,
            "lines": document.lines(data, faults),
            "faults": faults,
            "schema": schema,
            "schema_said": said,
            "schema_lines": document.lines(schema) if schema is not None else [],
            "trace_id": trace_of(event) if event is not None else "",
            "behind": behind.exclude(pk=one.pk).count() if one.is_open else 0,
            "head": behind.order_by("place", "pk").first() if one.is_open else None,
            "replaces": DeadLetter.objects.filter(replaced_by=event).first() if event is not None else None,
            "cause": lineage.by_id(event.causation_id, event.correlation_id) if event and event.causation_id else None,
            "may_act": roles.has(request.user, roles.OPERATOR),
        },
    )


def jobs(subscription: str = "") -> dict[str, list[RedriveJob]]:
    """Those under way or just ended (of one subscription, or of all), and the newest that ended earlier."""
    rows = RedriveJob.objects.select_related("subscription").order_by("-pk")
    if subscription:
        rows = rows.filter(subscription__name=subscription)
    active = list(rows.filter(state__in=RedriveJob.ACTIVE)[:JOBS])
    ended = list(rows.exclude(state__in=RedriveJob.ACTIVE)[:EARLIER])
    since = wall() - LATELY_S
    lately = [one for one in ended if one.ended_at is not None and one.ended_at.timestamp() >= since]
    return {"jobs": active + lately, "earlier": [one for one in ended if one not in lately]}
