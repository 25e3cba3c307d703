"""Whether events reach whom they are for, and what waits for somebody's word. Pure; every threshold stands here.

What nobody has to do anything about is not told: a delivery that is tried again by itself, a subscription that somebody
paused, one that is a moment behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from apps.dashboard.judge.readings import DEGRADED, HEALTHY, Bus, Judgement, Receiver
from apps.dashboard.words import ago, and_list, plural

BEHIND_S = 60.0
"""Seconds that the oldest unread event may wait for an active subscription."""
BEHIND = 10
"""Unread events below which it is not behind, however old they are: a quiet log and a slow clock are no fault."""
MANY = 10_000
"""Letters that wait, of all subscriptions, from which on the line itself is the news."""
MOST = 3
"""Sentences that the verdict gets."""


def judge(bus: Bus, now: float) -> Judgement:
    """DEGRADED with what is wrong in order of weight, joined; HEALTHY when nothing is."""
    told = list(sentences(bus, now))
    if not told:
        return Judgement(HEALTHY)
    since = min((at for _, at in told if at is not None), default=None)
    return Judgement(DEGRADED, " · ".join(said for said, _ in told[:MOST]), since)


def sentences(bus: Bus, now: float) -> Iterator[tuple[str, float | None]]:
    """What is wrong, and since when if that is known; the heaviest first."""
    if bus.holes:
        yield f"{plural(bus.holes, 'event')} of publishers missing in the log", None
    failed = {one.name: one.open.get("failed", 0) for one in bus.receivers if one.open.get("failed")}
    if failed:
        names = sorted(failed, key=lambda name: (-failed[name], name))
        letters = plural(sum(failed.values()), "dead letter")
        behind = f", {plural(bus.keys, 'key')} waiting behind" if bus.keys else ""
        yield f"{letters} of {and_list(names)}{behind}", bus.failed_at
    broken = [one for one in bus.receivers if is_broken(one, now)]
    if broken:
        names = [one.name for one in broken]
        verb = "fails" if len(names) == 1 else "fail"
        yield (
            f"{and_list(names)} {verb} to take events",
            min((s for one in broken if (s := one.failing_since)), default=None),
        )
    for one in bus.receivers:
        if is_behind(one, now) and one not in broken and one.behind_since is not None:
            waits = f"{plural(one.lag, 'event')}, {ago(now - one.behind_since)}"
            yield f"{one.name} is {waits} behind", one.behind_since
    waiting = sum(one.open.get("retrying", 0) + one.open.get("parked", 0) for one in bus.receivers)
    if waiting >= MANY:
        yield f"{plural(waiting, 'event')} waiting to be tried again", None
    if bus.forged:
        yield f"{plural(bus.forged, 'forged entry').replace('entrys', 'entries')} refused in the last hour", None


def state(one: Receiver, now: float) -> str:
    """How one subscription is, in the states that services have."""
    if one.state == "paused":
        return "maintenance"
    if one.state == "disabled":
        return "failing" if one.failing_since is not None else "maintenance"
    if is_broken(one, now) or one.open.get("failed"):
        return "failing" if is_broken(one, now) else DEGRADED
    return DEGRADED if is_behind(one, now) or one.open.get("retrying") else HEALTHY


def is_broken(one: Receiver, now: float) -> bool:
    """Whether its own breaker is open, or it was disabled because its endpoint is gone."""
    if one.state == "disabled":
        return one.failing_since is not None
    return one.state == "active" and one.opened_until is not None and one.opened_until > now


def is_behind(one: Receiver, now: float) -> bool:
    """Whether it is active and old events wait for it."""
    if one.state != "active" or one.behind_since is None:
        return False
    return one.lag >= BEHIND and now - one.behind_since > BEHIND_S
