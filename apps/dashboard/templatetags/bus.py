"""How events are drawn on the server."""

from __future__ import annotations

import json
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.dashboard import words
from apps.dashboard.events import deliveries, links
from apps.dashboard.templatetags.mission import icon

register = template.Library()

PREVIEW = 160


@register.filter
def event_url(event: Any) -> str:
    return links.event_url(event)


@register.filter
def stream_url(name: str) -> str:
    return links.stream_url(name)


@register.filter
def kind_url(name: str) -> str:
    return links.kind_url(name)


@register.filter
def source_url(name: str) -> str:
    return links.source_url(name)


@register.filter
def preview(data: Any) -> str:
    """A payload in one line."""
    text = json.dumps(data, ensure_ascii=False)
    return text if len(text) <= PREVIEW else f"{text[:PREVIEW]}…"


@register.filter
def after_words(milliseconds: float | None) -> str:
    """How long after: ``+1.2 ms``, ``+3 min``."""
    if milliseconds is None:
        return ""
    if milliseconds < 0:
        return f"{words.milliseconds(-milliseconds)} ms earlier, by another clock"
    if milliseconds < 10_000:
        return f"+{words.milliseconds(milliseconds)} ms"
    return f"+{words.ago(milliseconds / 1000)}"


@register.filter
def times_1000(value: float | None) -> float | None:
    """Seconds as milliseconds."""
    return None if value is None else value * 1000


@register.filter
def small_rate(value: float) -> str:
    """Events a second, or a minute or an hour where that says more."""
    if value >= 0.95:
        return f"{words.rate(value)} /s"
    if value * 60 >= 0.95:
        return f"{words.rate(value * 60)} /min"
    return f"{words.rate(value * 3600)} /h" if value else "–"


@register.filter
def box_words(box: Any) -> str:
    """What stands below the name of a box of the flow map: how much flows, and what is wrong or counted."""
    rate = small_rate(box.rate) if box.rate else ""
    return " · ".join(part for part in (rate, box.told) if part) or (
        "idle" if box.kind != "taker" else "nothing undone"
    )


@register.filter
def pretty(document: Any) -> str:
    """A document as people edit it."""
    return json.dumps(document, ensure_ascii=False, indent=2)


@register.simple_tag
def indent(level: int) -> int:
    """Pixels before a line of a document."""
    return min(level, 24) * 16


SECTIONS = (
    ("stream", "/events/", "Stream"),
    ("subscriptions", "/events/subscriptions/", "Subscriptions"),
    ("dead-letters", "/events/dead-letters/", "Dead letters"),
    ("catalogue", "/events/catalogue/", "Catalogue"),
    ("flow", "/events/flow/", "Flow"),
    ("tester", "/events/tester/", "Tester"),
)


@register.inclusion_tag("events/nav.html")
def event_sections(section: str) -> dict[str, Any]:
    """The pages of the bus, beside each other."""
    return {"section": section, "sections": SECTIONS}


# -- letters and jobs ---------------------------------------------------------------------------

JOBS = {
    "running": ("healthy", "running"),
    "confirm": ("degraded", "canary done: go on?"),
    "paused": ("maintenance", "paused"),
    "done": ("healthy", "done"),
    "cancelled": ("unknown", "cancelled"),
}


def _mark(state: str, word: str) -> SafeString:
    return format_html(
        '<span class="state" data-state="{}"><svg aria-hidden="true"><use href="{}"/></svg>{}</span>',
        state,
        icon(state),
        word,
    )


@register.simple_tag
def letter_state(letter: Any) -> SafeString:
    """Shape, colour and word."""
    return _mark(*deliveries.WORDS.get(letter.state, ("unknown", letter.state)))


@register.simple_tag
def job_state(job: Any) -> SafeString:
    return _mark(*JOBS.get(job.state, ("unknown", job.state)))


@register.filter
def job_total(job: Any) -> int:
    """How many it is about: those that there were at its beginning, and what has followed behind them."""
    return int(max(job.total, job.succeeded + job.failed))


@register.simple_tag
def progress(job: Any) -> SafeString:
    """How far a job is, as a bar and in numbers."""
    done = job.succeeded + job.failed
    total = job_total(job)
    good, bad = (100 * part / total if total else 0 for part in (job.succeeded, job.failed))
    return format_html(
        '<svg class="progress" role="img" aria-label="{} of {} tried">'
        '<rect class="all" width="100%" height="100%" rx="3"/>'
        '<rect class="healthy" width="{}%" height="100%" rx="3"/>'
        '<rect class="failing" x="{}%" width="{}%" height="100%"/></svg>',
        f"{done:,}",
        f"{total:,}",
        f"{good:.1f}",
        f"{good:.1f}",
        f"{bad:.1f}",
    )


@register.simple_tag
def answer(state: str, word: str) -> SafeString:
    """Shape, colour and word."""
    return _mark(state, word)


@register.simple_tag
def taker(takers: Any, name: str, brief: bool = False) -> SafeString:
    """A subscription with what is wrong with it, or ``brief``: with the worst of that."""
    one = takers.get(name)
    if one is None:
        return _mark("unknown", name)
    told = one.told.partition(" · ")[0] if brief else one.told
    said = f"{one.name}, {told}" if told else one.name
    mark = _mark(one.state, said)
    return format_html('<a href="{}">{}</a>', one.url, mark) if one.url else mark
