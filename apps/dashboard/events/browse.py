"""The log as a list: what a page's address asks for, a page of it, and what has come since.

The filters are those of ``GET /api/v1/events`` by the same names, so that a page's address says what a program would
ask; a search of the page's own looks into what they leave.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, QueryDict
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request

from apps.events.api import Events, Positions
from apps.events.models import Event
from apps.events.queries import head
from apps.lib.clock import wall

FILTERS = ("type", "source", "subject", "stream", "tag", "correlation_id", "since", "until")
SEARCHED = 20_000
"""Events that a search looks through: the newest that the other filters leave."""
TAIL = 100
"""Events that are shown of those that came since; the others are counted."""
RANGES = {"": 0.0, "15m": 900.0, "1h": 3600.0, "6h": 6 * 3600.0, "24h": 86_400.0}
"""Time → seconds back from now; none is all of the log."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks for: filters by name, each with a value, the search, and the time back from now."""

    filters: dict[str, str]
    search: str = ""
    range: str = ""
    cursor: str = ""

    @property
    def words(self) -> dict[str, str]:
        """All that is in the address, but the place in the list."""
        rest = {"q": self.search, "range": self.range}
        return self.filters | {name: value for name, value in rest.items() if value}

    @property
    def tails(self) -> bool:
        """Whether what comes next belongs to it: not to a page further back, nor to a time that has an end."""
        return not self.cursor and "until" not in self.filters


@dataclass(frozen=True, slots=True)
class Found:
    """A page of the log, newest first; ``older`` and ``newer`` are cursors, ``problem`` says why there is none."""

    events: list[Event] = field(default_factory=list)
    head: int = 0
    """The log's end when it was read."""
    older: str = ""
    newer: str = ""
    skipped: int = 0
    """Events that have come since and are not shown."""
    problem: str = ""


def asked(request: HttpRequest) -> Asked:
    """What the address asks for; what it does not know it passes over."""
    said = {name: request.GET.get(name, "").strip() for name in (*FILTERS, "q", "range", "cursor")}
    return Asked(
        {name: said[name] for name in FILTERS if said[name]},
        said["q"][:200],
        said["range"] if said["range"] in RANGES else "",
        said["cursor"],
    )


def page(request: HttpRequest, wanted: Asked) -> Found:
    """The page of the log that ``wanted`` asks for."""
    end = head()
    query = _query(wanted)
    if wanted.cursor:
        query["cursor"] = wanted.cursor
    inner = copy(request)
    inner.GET = query  # type: ignore[misc] # what the paginator reads its cursor and its filters from
    pages = Positions()
    try:
        rows = pages.paginate_queryset(_rows(query, wanted), Request(inner))
    except ValidationError as error:
        return Found(head=end, problem=_sentence(error))
    except NotFound:
        return Found(head=end, problem="This page of the list can't be told any more: begin at the newest.")
    return Found(list(rows or ()), end, _cursor(pages.get_next_link()), _cursor(pages.get_previous_link()))


def tail(wanted: Asked, after: int) -> Found:
    """What has come after position ``after``: the newest TAIL, newest first, and how many more there are."""
    end = head()
    try:
        rows = _rows(_query(wanted), wanted).filter(position__gt=after, position__lte=end)
    except ValidationError as error:
        return Found(head=end, problem=_sentence(error))
    events = list(rows.order_by("-position")[:TAIL])
    skipped = rows.filter(position__lt=events[-1].position).count() if len(events) == TAIL else 0
    return Found(events, end, skipped=skipped)


def _query(wanted: Asked) -> QueryDict:
    query = QueryDict(mutable=True)
    query.update(wanted.filters)
    if wanted.range and "since" not in wanted.filters:
        # A place in the list goes on from where it was, however late it is turned to.
        query["since"] = datetime.fromtimestamp(wall() - RANGES[wanted.range], UTC).isoformat()
    return query


def _rows(query: QueryDict, wanted: Asked) -> QuerySet[Event]:
    """ValidationError beside the filter that is none."""
    rows = Event.objects.filter(position__isnull=False)
    found = Events(query, queryset=rows)
    if not found.is_valid():
        raise ValidationError(found.errors)
    return _searched(found.qs, wanted.search).select_related("outbox")


def _searched(rows: QuerySet[Event], words: str) -> QuerySet[Event]:
    """Those of the newest SEARCHED that hold all of ``words`` in their payload, subject, stream or id."""
    if not words:
        return rows
    newest = rows.order_by("-position").values("pk")[:SEARCHED]
    rows = Event.objects.filter(position__isnull=False, pk__in=newest).alias(
        text=Cast("data", TextField()), uid=Cast("event_id", TextField())
    )
    for word in words.split()[:10]:
        # One database keeps text in JSON as it is, the other as ASCII.
        spelled = {word, json.dumps(word)[1:-1]}
        holds = Q(subject__icontains=word) | Q(stream__icontains=word) | Q(type__icontains=word)
        for one in spelled:
            holds |= Q(text__icontains=one)
        holds |= Q(uid__icontains=word) | Q(uid__icontains=word.replace("-", ""))
        rows = rows.filter(holds)
    return rows


def _cursor(link: str | None) -> str:
    return parse_qs(urlsplit(link).query)["cursor"][0] if link else ""


def _sentence(error: ValidationError) -> str:
    detail: Any = error.detail
    if isinstance(detail, dict):
        return " ".join(f"{NAMES.get(name, name)}: {' '.join(map(str, words))}" for name, words in detail.items())
    return str(detail)


NAMES = {
    "type": "Type",
    "source": "Source",
    "subject": "Subject",
    "stream": "Stream",
    "tag": "Tag",
    "correlation_id": "Correlation",
    "since": "Since",
    "until": "Until",
}
