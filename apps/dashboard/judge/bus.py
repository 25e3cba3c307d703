"""Whether events reach whom they are for, and what waits for somebody's word. Pure; every threshold stands here.

What nobody has to do anything about is not told: a delivery that is tried again by itself, a subscription that somebody
paused, one that is a moment behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from apps.dashboard.judge.readings import (
    DEGRADED,
    HEALTHY,
    UNKNOWN,
    Bus,
    Judgement,
    Link,
    Projected,
    Receiver,
    Reports,
    Waiting,
)
from apps.dashboard.words import ago, and_list, plural

BEHIND_S = 60.0
"""Seconds that the oldest unread event may wait for an active subscription."""
BEHIND = 10
"""Unread events below which it is not behind, however old they are: a quiet log and a slow clock are no fault."""
MANY = 10_000
"""Letters that wait, of all subscriptions, from which on the line itself is the news."""
MOST = 3
"""Sentences that the verdict gets."""
SILENT_S = 45.0
"""Seconds after which a service's consumer that says how it is each ten seconds is silent."""
WAITS_S = 30.0
"""Seconds that an event may wait in a publisher's outbox."""
CONSUMER = "consumer"
NOTHING = Reports()
FAULT = 120
"""Characters of a fault in the verdict."""
MISSING = Link("Missing events", "/system/#missing")
OUTBOXES = Link("Outboxes", "/system/#waiting")
ASIDE = Link("Entries put aside", "/system/#aside")
PROJECTIONS = Link("Projections", "/system/#projections")


def heard(bus: Bus, reports: Reports | None) -> Bus:
    """``bus`` with what services' consumers said of themselves; None: nobody can know what that is."""
    return replace(bus, receivers=tuple(_heard(one, reports) for one in bus.receivers))


def _heard(one: Receiver, reports: Reports | None) -> Receiver:
    if one.kind != CONSUMER:
        return one
    if reports is None:
        return replace(one, lag=None, blind=True)
    said = reports.groups.get(one.name)
    if said is None:
        return replace(one, lag=None)
    return replace(
        one,
        lag=said.lag,
        behind_since=said.behind_since,
        heard_at=said.heard_at,
        parked=said.parked,
        missing=said.missing,
    )


def judge(bus: Bus, now: float, reports: Reports = NOTHING) -> Judgement:
    """DEGRADED with what is wrong in order of weight, joined; HEALTHY when nothing is."""
    told = list(troubles(bus, now, reports.waiting))
    if not told:
        return Judgement(HEALTHY)
    since = min((one.since for one in told if one.since is not None), default=None)
    links = tuple(dict.fromkeys(one.link for one in told[:MOST]))
    return Judgement(DEGRADED, " · ".join(one.said for one in told[:MOST]), since, links)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong: in words, where it is mended, and since when if that is known."""

    said: str
    link: Link
    since: float | None = None


def troubles(bus: Bus, now: float, waiting: Sequence[Waiting] = ()) -> Iterator[Trouble]:
    """What is wrong, the heaviest first."""
    if bus.holes:
        yield Trouble(f"{plural(bus.holes, 'event')} of publishers missing in the log", MISSING)
    for one in bus.receivers:
        if one.missing and not is_silent(one, now):
            yield Trouble(f"{plural(one.missing, 'event')} never came to {one.name}", page_of([one]))
    yield from unsent(waiting, now)
    failed = {one.name: one.open.get("failed", 0) for one in bus.receivers if one.open.get("failed")}
    if failed:
        names = sorted(failed, key=lambda name: (-failed[name], name))
        letters = plural(sum(failed.values()), "dead letter")
        behind = f", {plural(bus.keys, 'key')} waiting behind" if bus.keys else ""
        only = "?" + urlencode({"subscription": names[0]}) if len(names) == 1 else ""
        link = Link("Dead letters", f"/events/dead-letters/{only}")
        yield Trouble(f"{letters} of {and_list(names)}{behind}", link, bus.failed_at)
    broken = [one for one in bus.receivers if is_broken(one, now)]
    if broken:
        verb = "fails" if len(broken) == 1 else "fail"
        since = min((s for one in broken if (s := one.failing_since)), default=None)
        yield Trouble(f"{_names(broken)} {verb} to take events", page_of(broken), since)
    yield from _projections(bus.projections, now)
    silent = [one for one in bus.receivers if one.heard_at is not None and is_silent(one, now)]
    if silent:
        verb = "has" if len(silent) == 1 else "have"
        last = max(one.heard_at or 0.0 for one in silent)
        waits = f"{_names(silent)} {verb} been silent for {ago(now - last)}"
        yield Trouble(f"{waits}: whether events are taken is not known", page_of(silent), last)
    for one in bus.receivers:
        if is_behind(one, now) and one not in broken and one.behind_since is not None and one.lag is not None:
            waits = f"{plural(one.lag, 'event')}, {ago(now - one.behind_since)}"
            yield Trouble(f"{one.name} is {waits} behind", page_of([one]), one.behind_since)
    again = sum(one.open.get("retrying", 0) + one.open.get("parked", 0) for one in bus.receivers)
    if again >= MANY:
        link = Link("What waits", "/events/dead-letters/?state=retrying")
        yield Trouble(f"{plural(again, 'event')} waiting to be tried again", link)
    if bus.forged:
        said = plural(bus.forged, "forged entry").replace("entrys", "entries")
        yield Trouble(f"{said} refused in the last hour", ASIDE)


def _names(some: Sequence[Receiver]) -> str:
    return and_list([one.name for one in some])


def page_of(some: Sequence[Receiver]) -> Link:
    """Where whoever takes events is mended: its own page, or the list, where the worst come first."""
    if len(some) == 1:
        return Link(some[0].name, f"/events/subscriptions/{some[0].name}/")
    return Link("Subscriptions", "/events/subscriptions/")


def _projections(projections: Sequence[Projected], now: float) -> Iterator[Trouble]:
    for one in projections:
        behind = f"{plural(one.behind, 'event')} behind"
        if one.fault:
            yield Trouble(f"projection {one.name} stands still, {behind}: {one.fault[:FAULT]}", PROJECTIONS)
        elif one.behind_since is not None and one.behind >= BEHIND and now - one.behind_since > BEHIND_S:
            late = ago(now - one.behind_since)
            yield Trouble(f"projection {one.name} is {behind}, {late}", PROJECTIONS, one.behind_since)


def unsent(waiting: Sequence[Waiting], now: float) -> Iterator[Trouble]:
    """Broker by broker, what publishers can't get rid of."""
    stuck = [one for one in waiting if one.away or one.oldest_s > WAITS_S]
    for broker in dict.fromkeys(one.broker for one in stuck):
        held = [one for one in stuck if one.broker == broker]
        names, events = and_list(sorted(one.publisher for one in held)), sum(one.events for one in held)
        oldest = max(one.oldest_s for one in held)
        waits = f"{plural(events, 'event')} of {names} waiting, the oldest for {ago(oldest)}"
        if not events:
            yield Trouble(f"{broker} takes no events of {names}", OUTBOXES)
        elif any(one.away for one in held):
            yield Trouble(f"{broker} takes no events: {waits}", OUTBOXES, now - oldest)
        else:
            yield Trouble(f"{broker} is slow: {waits}", OUTBOXES, now - oldest)


def state(one: Receiver, now: float) -> str:
    """How one subscription is, in the states that services have."""
    if one.state == "paused":
        return "maintenance"
    if one.state == "disabled":
        return "failing" if one.failing_since is not None else "maintenance"
    if is_broken(one, now) or one.open.get("failed"):
        return "failing" if is_broken(one, now) else DEGRADED
    if one.blind or is_silent(one, now):
        return UNKNOWN
    return DEGRADED if is_behind(one, now) or one.missing or one.open.get("retrying") else HEALTHY


def word(one: Receiver, now: float) -> str:
    """The state of a subscription, in a word or two."""
    if one.state != "active":
        return one.state
    if is_broken(one, now):
        return "breaker open"
    if one.blind:
        return "not known"
    return "silent" if is_silent(one, now) else "behind" if is_behind(one, now) else "active"


def is_silent(one: Receiver, now: float) -> bool:
    """Whether it is a service's consumer that has not said lately how it is: what it said last no longer holds."""
    if one.kind != CONSUMER or one.blind:
        return False
    return one.heard_at is None or now - one.heard_at > SILENT_S


def is_broken(one: Receiver, now: float) -> bool:
    """Whether its own breaker is open, or it was disabled because its endpoint is gone."""
    if one.state == "disabled":
        return one.failing_since is not None
    return one.state == "active" and one.opened_until is not None and one.opened_until > now


def is_behind(one: Receiver, now: float) -> bool:
    """Whether it is active and old events wait for it."""
    if one.state != "active" or one.behind_since is None or one.lag is None or is_silent(one, now):
        return False
    return one.lag >= BEHIND and now - one.behind_since > BEHIND_S
