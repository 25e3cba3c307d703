"""How events are drawn on the server."""

from __future__ import annotations

import json
from typing import Any

from django import template

from apps.dashboard import words
from apps.dashboard.events import links

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
def pretty(document: Any) -> str:
    """A document as people edit it."""
    return json.dumps(document, ensure_ascii=False, indent=2)


@register.simple_tag
def indent(level: int) -> int:
    """Pixels before a line of a document."""
    return min(level, 24) * 16


SECTIONS = (
    ("stream", "/events/", "Stream"),
    ("catalogue", "/events/catalogue/", "Catalogue"),
)


@register.inclusion_tag("events/nav.html")
def event_sections(section: str) -> dict[str, Any]:
    """The pages of the bus, beside each other."""
    return {"section": section, "sections": SECTIONS}
