"""How a state document is drawn on the server: the first picture, before the page's module takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.dashboard import words
from apps.dashboard.judge import freshness, own
from apps.gateway.queries import policies_in_words
from apps.lib.clock import wall

register = template.Library()

STATE_WORDS = {
    "healthy": "Healthy",
    "degraded": "Degraded",
    "failing": "Failing",
    "unhealthy": "Unhealthy",
    "maintenance": "Maintenance",
    "drained": "Drained",
    "unknown": "Unknown",
    "closed": "Closed",
    "open": "Open",
    "half_open": "Half-open",
    "gone": "Gone",
    "ejected": "Ejected",
    "setup": "Setting up",
    "reports": "Reports only",
}
ICONS = {
    "healthy": "healthy",
    "closed": "healthy",
    "ok": "healthy",
    "degraded": "degraded",
    "half_open": "degraded",
    "warn": "degraded",
    "failing": "failing",
    "unhealthy": "failing",
    "open": "failing",
    "bad": "failing",
    "maintenance": "maintenance",
    "drained": "maintenance",
    "deploy": "deploy",
    "info": "deploy",
    "ejected": "degraded",
    "setup": "setup",
    "reports": "reports",
}


def _number(value: Any) -> float | None:
    """What a template gives for a member that is absent is an empty string."""
    return None if value in ("", None) else float(value)


@register.filter
def percent(value: Any) -> str:
    return words.percent(_number(value))


@register.filter
def ms(value: Any) -> str:
    return words.milliseconds(_number(value))


@register.filter
def per_second(value: Any) -> str:
    return words.rate(_number(value))


@register.filter
def changes_words(changes: Mapping[str, Any]) -> str:
    return words.changes(changes)


@register.filter
def count(value: int) -> str:
    return f"{value:,}"


@register.filter
def known(value: Any) -> str:
    """A count; a dash for one that is not known."""
    return f"{value:,}" if isinstance(value, int) else "–"


@register.filter
def duration(value: Any) -> str:
    number = _number(value)
    return "–" if number is None else words.ago(number)


@register.filter
def icon(state: str) -> str:
    """The symbol of a state or kind of change, as ``use`` wants it."""
    return f"#i-{ICONS.get(state, 'unknown')}"


@register.simple_tag
def state(value: str) -> SafeString:
    """Shape, colour and word."""
    return format_html(
        '<span class="state" data-state="{}" data-f="state"><svg aria-hidden="true"><use href="{}"/></svg>'
        "<span>{}</span></span>",
        value,
        icon(value),
        STATE_WORDS.get(value, "Unknown"),
    )


@register.simple_tag
def nav_item(key: str, href: str, title: str, current: str) -> SafeString:
    mark = SafeString(' aria-current="page"') if key == current else ""
    return format_html('<a class="item" href="{}"{}>{}</a>', href, mark, title)


# -- times --------------------------------------------------------------------------------------


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return datetime.fromtimestamp(float(value), UTC) if value else None


@register.simple_tag
def at_time(value: Any, precision: str = "minutes") -> SafeString:
    """A clock time; the browser turns it into local time, the title stays UTC."""
    moment = _moment(value)
    if moment is None:
        return SafeString("–")
    form = "%H:%M:%S" if precision == "seconds" else "%H:%M"
    return format_html(
        '<time datetime="{}" data-at="{}" data-as="{}" title="{}">{}</time>',
        moment.isoformat(),
        round(moment.timestamp(), 3),
        precision,
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        moment.strftime(form),
    )


@register.simple_tag
def age(value: Any) -> SafeString:
    """How long ago, kept current by the browser."""
    moment = _moment(value)
    if moment is None:
        return SafeString("–")
    return format_html(
        '<time datetime="{}" data-at="{}" data-as="age" title="{}">{}</time>',
        moment.isoformat(),
        round(moment.timestamp(), 3),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        words.ago(wall() - moment.timestamp()),
    )


@register.simple_tag
def checked(instance: Mapping[str, Any]) -> SafeString:
    """When an instance was last checked, and how long it took."""
    if not instance.get("checked_at"):
        return SafeString("not checked")
    took = instance.get("latency_ms")
    latency = f" · {words.milliseconds(took)} ms" if took is not None else ""
    return format_html("{}{}", age(instance["checked_at"]), latency)


# -- small pictures -----------------------------------------------------------------------------


@register.simple_tag
def spark(rates: Sequence[float] | None) -> SafeString:
    """Requests a second over the last hour."""
    points = words.spark(rates or ())
    return format_html(
        '<svg class="spark" viewBox="0 0 100 26" preserveAspectRatio="none" aria-hidden="true" data-f="spark">'
        '<polygon points="{}"/><polyline points="{}"/></svg>',
        f"0,26 {points} 100,26" if points else "",
        points,
    )


@register.simple_tag
def beats(bar: Sequence[str] | None, size: str = "") -> SafeString:
    """The worst verdict of each stretch of time, oldest left."""
    bar = list(bar or ()) or ["unknown"] * 60
    step = 100 / len(bar)
    rects = format_html_join(
        "",
        '<rect x="{}%" y="0" width="{}%" height="100%" rx="1.5" class="{}"/>',
        ((f"{n * step:.2f}", f"{step * 0.8:.2f}", worst) for n, worst in enumerate(bar)),
    )
    return format_html(
        '<svg class="beats {}" role="img" aria-label="{}" data-f="bar">{}</svg>', size, words.bar_words(bar), rects
    )


@register.simple_tag
def ribbon(changes: Sequence[Mapping[str, Any]], now: float) -> SafeString:
    """Marks on a line of the last hour; the list beside it says the same in words."""
    places = [(max(0.0, 100 - (now - change["at"]) / 36), change) for change in changes]
    marks = format_html_join(
        "",
        '<svg x="{}%" y="4" width="11" height="11" overflow="visible" data-kind="{}"><title>{}</title>'
        '<use href="{}" x="-5.5" y="0" width="11" height="11" color="var(--tone)"/></svg>',
        ((f"{x:.2f}", change["kind"], change["title"], icon(change["kind"])) for x, change in places),
    )
    labels = format_html_join(
        "",
        '<text x="{}%" y="32" text-anchor="{}">{}</text>',
        ((f"{x:.2f}", anchor, title) for x, anchor, title in words.labels([(x, c["title"]) for x, c in places])),
    )
    return format_html(
        '<svg class="ribbon" data-f="ribbon" aria-hidden="true"><line x1="0" x2="100%" y1="9.5" y2="9.5"/>{}{}</svg>',
        marks,
        labels,
    )


@register.simple_tag
def timeline(spells: Sequence[Any], now: float) -> SafeString:
    """Breaker states over the last hour, one lane per worker."""
    start = now - 3600
    lanes = {worker: n for n, worker in enumerate(dict.fromkeys(spell.worker for spell in spells))}
    rects = format_html_join(
        "",
        '<rect x="{}%" width="{}%" y="{}%" height="{}%" rx="1.5" data-state="{}"><title>{}</title></rect>',
        (
            (
                f"{max(0.0, (spell.since - start) / 36):.2f}",
                f"{max(0.3, ((spell.until or now) - max(spell.since, start)) / 36):.2f}",
                f"{lanes[spell.worker] * 100 / len(lanes):.1f}",
                f"{80 / len(lanes):.1f}",
                spell.state,
                f"{spell.worker}: {STATE_WORDS.get(spell.state, spell.state)} for {words.ago(spell.seconds)}",
            )
            for spell in spells
        ),
    )
    if not spells:
        return SafeString('<p class="muted">No change of state in the last hour.</p>')
    return format_html(
        '<svg class="timeline" role="img" aria-label="Breaker states in the last hour, by worker">{}</svg>', rects
    )


# -- words about a service ----------------------------------------------------------------------


@register.filter
def breaker_words(service: Mapping[str, Any], name: str) -> str:
    return words.breaker(service.get("breaker"), name)


@register.filter
def up_words(service: Mapping[str, Any], name: str) -> str:
    return words.up(service.get("instances", {}), name)


@register.filter
def service_url(name: str) -> str:
    return "/gateway/" if name == "gateway" else reverse("service", args=[name]) if name else "/services/"


@register.filter
def seen(service: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers to show: what the gateway saw, or of a service that only reports, its own; empty: not known."""
    found: Mapping[str, Any] = service.get("own" if service.get("reports") else "red") or {}
    return found


@register.filter
def own_words(service: Mapping[str, Any]) -> str:
    return words.own_report(service)


@register.filter
def expected_words(route: Any) -> str:
    """What is expected of a route: the shares of failures it may have, and how slow it may be."""
    return words.expected(route.degraded_share, route.failing_share, route.slow_ms)


@register.filter
def lost_words(part: Mapping[str, Any]) -> str:
    return words.lost(part)


@register.filter
def all_lost(processes: Mapping[str, Mapping[str, Any]]) -> str:
    return words.all_lost(processes)


@register.filter
def hides(source: str) -> str:
    """What nobody knows without this source."""
    return freshness.HIDES.get(source, "")


@register.filter
def counted(red: Any, what: str) -> str:
    """How many requests of the last minute were ``limited`` or ``refused``; a dash when nobody knows."""
    return f"{red.get(what, 0):,}" if isinstance(red, Mapping) else "–"


@register.filter
def limited_words(red: Mapping[str, Any] | str) -> str:
    return words.limited(red if isinstance(red, Mapping) else None)


@register.filter
def affected_url(row: Mapping[str, Any]) -> str:
    only = {"errors": "1"} if "failed" in row else {}
    return "/traces/?" + urlencode({**only, "service": "gateway", "name": row["path"], "range": "15m"})


@register.filter
def affected_words(row: Mapping[str, Any]) -> str:
    return words.affected(row)


@register.filter
def nobody(document: Mapping[str, Any]) -> str:
    return words.nobody(document["verdict"], document["sources"])


@register.filter
def told_apart(verdict: Mapping[str, Any]) -> bool:
    """Whether what is not known needs a place of its own: a verdict that is about one reason says it all itself."""
    return len(verdict["blind"]) > (1 if verdict["state"] == "unknown" else 0)


@register.filter
def affected_total(verdict: Mapping[str, Any]) -> str:
    return words.affected_total(verdict)


@register.filter
def is_part(name: str) -> bool:
    return name in own.TITLES


@register.filter
def acked(plane: Mapping[str, Any]) -> str:
    """How many live workers serve the newest revision."""
    workers = plane.get("workers", {})
    on_it = sum(1 for worker in workers.values() if worker.get("revision") == plane.get("revision"))
    return f"{on_it} of {len(workers)}" if workers else "–"


@register.filter
def tally(document: Mapping[str, Any]) -> str:
    return words.tally(document["services"])


# -- words about configuration ------------------------------------------------------------------


@register.filter
def who_words(route: Any) -> str:
    """Who may call it, and by which credentials."""
    if not route.auth:
        return "anyone"
    who = "every consumer" if "*" in route.allow else ", ".join(route.allow) or "nobody"
    return f"{who}, by {' or '.join({'key': 'API key', 'jwt': 'JWT'}.get(kind, kind) for kind in route.auth)}"


@register.filter
def in_words(route: Any) -> list[tuple[str, str]]:
    """What its policies do, title and line of each."""
    return policies_in_words(route)


@register.filter
def limit_words(limit: Any) -> str:
    if limit is None:
        return "–"
    return f"{limit.requests:,} in {words.ago(limit.period)}" if limit.period != 1 else f"{limit.requests:,} /s"


@register.filter
def policy_words(policy: Any) -> str:
    unit = "calls" if policy.sliding_window_type == "count" else "s"
    return (
        f"{words.percent(policy.failure_rate)} fail, of the last {policy.sliding_window_size:,} {unit} "
        f"({policy.minimum_calls:,} calls at least)"
    )


@register.filter
def live_of(route: Any, document: Mapping[str, Any]) -> str:
    return str(document["services"].get(route.service.name, {}).get("state", "unknown"))
