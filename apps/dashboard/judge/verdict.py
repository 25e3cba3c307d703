"""One sentence for the whole, and the evidence in another. Pure.

What is known to fail is said first, and red. Then what nobody can know, and grey: with any source silent the whole is
never called healthy, nor anybody unaffected. Then what is degraded. Green is what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from apps.dashboard.judge.freshness import HIDES, Source
from apps.dashboard.judge.own import TITLES, Part
from apps.dashboard.judge.readings import (
    DEGRADED,
    FAILING,
    HEALTHY,
    MAINTENANCE,
    REPORTS,
    SETUP,
    UNKNOWN,
    Judgement,
    Link,
)
from apps.dashboard.words import and_list, plural

KNOWN_DOWN = frozenset({"relay", "beat"})
"""Sources that hide nothing else: that they are down is itself all there is to know."""


FINE = Judgement(HEALTHY)
SYSTEM = Link("System", "/system/")
LINKS = 2
"""Buttons beside the sentence."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One service, or the gateway, as it was judged."""

    state: str
    why: str
    since: float | None
    instances: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """``services``: those it speaks of, worst first; ``blind``: why not everything is known, in sentences."""

    state: str
    title: str
    detail: str = ""
    since: float | None = None
    services: Sequence[str] = ()
    blind: Sequence[str] = ()
    links: Sequence[Link] = ()
    """Where what is told of the bus and of ourselves is mended, the heaviest first."""


def judge(
    subjects: Mapping[str, Subject], parts: Mapping[str, Part], sources: Mapping[str, Source], bus: Judgement = FINE
) -> Verdict:
    """The verdict over all services, Mission Control's own parts, the bus, and the sources that they were judged by."""
    found = _judge(subjects, parts, sources, bus)
    faulty = any(part.state in {FAILING, DEGRADED} for name, part in parts.items() if name in TITLES)
    own = [SYSTEM] if faulty or found.blind else []
    links = (*own, *(bus.links if bus.state == DEGRADED else ()))
    # Whom it speaks of has a button of its own.
    most = 1 if found.services else LINKS
    return replace(found, links=links[:most]) if found.state not in {HEALTHY, SETUP} else found


def _judge(
    subjects: Mapping[str, Subject], parts: Mapping[str, Part], sources: Mapping[str, Source], bus: Judgement
) -> Verdict:
    named = {state: [name for name, one in subjects.items() if one.state == state] for state in WORDS}
    faults = [part for name, part in parts.items() if name in TITLES and part.state in {FAILING, DEGRADED}]
    blind = {name: source for name, source in sources.items() if source.stale}
    hidden = {name: source for name, source in blind.items() if name not in KNOWN_DOWN or not _down(parts, name)}
    reasons = list(dict.fromkeys(source.stale for source in hidden.values()))
    troubles = [(part.sentence, part.since) for part in faults]
    if bus.state == DEGRADED:
        troubles.append((bus.why, bus.since))
    told = list(dict.fromkeys([*reasons, *(sentence for sentence, _ in troubles)]))
    sentences = tuple(_blind_sentences(hidden))

    def about(state: str, title: str, names: Sequence[str], more: Iterable[str]) -> Verdict:
        single = [subjects[names[0]].why] if len(names) == 1 else _told(subjects, names)
        since = min((s for name in names if (s := subjects[name].since)), default=None)
        return Verdict(state, title, _join([*single[:3], *more]), since, names, sentences)

    degraded = [f"{name} degraded" for name in named[DEGRADED]]
    unknown = [f"{name} unknown" for name in named[UNKNOWN]]
    if named[FAILING]:
        more = [*told[:2], *degraded[:3], *unknown[:2]]
        return about(FAILING, f"Failing: {and_list(named[FAILING])}", named[FAILING], more)
    if hidden:
        lost = list(dict.fromkeys(HIDES[name] for name in hidden))
        known = [f"known: {one}" for one in _told(subjects, named[DEGRADED])[:2]]
        detail = _join([f"Not known without it: {and_list(lost, 4)}", *told[1:3], *known])
        return Verdict(UNKNOWN, f"Not known: {reasons[0]}", detail, None, [*named[DEGRADED]], sentences)
    if named[DEGRADED] or troubles:
        names = named[DEGRADED]
        if names:
            return about(DEGRADED, f"Degraded: {and_list(names)}", names, [*told[:2], *unknown[:2]])
        since = min((at for _, at in troubles if at), default=None)
        detail = _join([*(sentence for sentence, _ in troubles[1:3]), *unknown[:2], *_consequences(faults)])
        return Verdict(DEGRADED, f"Degraded: {troubles[0][0]}", detail, since, (), sentences)
    backends = {name: one for name, one in subjects.items() if name != "gateway"}
    if not backends:
        detail = "Add a service and its instances; they show here as soon as they are checked."
        return Verdict(UNKNOWN, "Nothing is registered yet", detail)
    if named[UNKNOWN]:
        return about(UNKNOWN, f"Not known: no verdict on {and_list(named[UNKNOWN])}", named[UNKNOWN], ())
    if not named[HEALTHY] and not named[MAINTENANCE]:
        return Verdict(UNKNOWN, "Nothing is checked yet", _calm(backends, subjects, named))
    return Verdict(HEALTHY, "Everything is healthy", _calm(backends, subjects, named))


WORDS = (FAILING, DEGRADED, UNKNOWN, SETUP, MAINTENANCE, HEALTHY, REPORTS)


def _down(parts: Mapping[str, Part], name: str) -> bool:
    return name in parts and parts[name].state in {FAILING, DEGRADED}


def _told(subjects: Mapping[str, Subject], names: Sequence[str]) -> list[str]:
    return [f"{name}: {subjects[name].why}" for name in names if subjects[name].why]


def _blind_sentences(hidden: Mapping[str, Source]) -> list[str]:
    """Reason by reason, what is not known because of it."""
    by_reason: dict[str, list[str]] = {}
    for name, source in hidden.items():
        lost = by_reason.setdefault(source.stale, [])
        if HIDES[name] not in lost:
            lost.append(HIDES[name])
    return [f"{reason[:1].upper()}{reason[1:]}; not known: {and_list(lost, 6)}." for reason, lost in by_reason.items()]


def _consequences(faults: Sequence[Part]) -> list[str]:
    return ["events wait until it is back"] if any(part.name == "relay" for part in faults) else []


def _calm(backends: Mapping[str, Subject], subjects: Mapping[str, Subject], named: Mapping[str, list[str]]) -> str:
    parts = [
        plural(len(backends) - len(named[REPORTS]), "service"),
        plural(sum(one.instances for one in backends.values()), "instance"),
    ]
    if "gateway" in subjects:
        parts.append(plural(subjects["gateway"].instances, "gateway worker"))
    if named[MAINTENANCE]:
        parts.append(f"{and_list(named[MAINTENANCE])} drained")
    if named[SETUP]:
        parts.append(f"{and_list(named[SETUP])} setting up")
    return _join(parts)


def _join(parts: Iterable[str]) -> str:
    return " · ".join(part for part in parts if part)
