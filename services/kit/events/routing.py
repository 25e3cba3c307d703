"""Where events go: rules, the document that carries them, and what follows from them for one type. Pure.

A rule sends the types that its pattern matches to a topic of a broker. All rules that match apply, in their order, so
an event may have several targets; of rules with the same target the first counts. What no rule matches goes to the
default broker, into the topic of its domain. Rules stand in a tree by segments and answers are remembered by type, so
the cost of an event does not grow with the number of rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from . import patterns
from .cloudevent import CloudEvent

CURRENT: Final = "mc:routes:current"
"""On Redis, a string: the newest ``Document`` as JSON, signed (services.kit.signature)."""
CHANNEL: Final = "mc:routes"
"""On Redis, pub/sub: a nudge, the number of the newest revision."""
FORMAT: Final = 1
"""Of the document. A higher one may mean what this release does not understand, and is refused whole."""
DEFAULT: Final = "default"
"""In a rule: the broker that MC_BUS_DEFAULT names, whichever that is."""
TOPIC: Final = r"[a-z][a-z0-9_-]{0,63}"
KEY: Final = r"[a-z0-9]{1,20}"
MAX_RULES: Final = 10_000
MAX_KNOWN: Final = 4096
"""Types whose targets are remembered; whoever invents types without end costs time here, not memory."""
MAX_WHY: Final = 200
"""Rules that do not match of which an explanation tells."""
EVERY: Final = "#"


class RoutesError(ValueError):
    """The document is none that can be followed; the message says why."""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule, as the document has it."""

    pattern: Annotated[str, Meta(min_length=1, max_length=patterns.MAX_LENGTH)]
    broker: Annotated[str, Meta(pattern="^[a-z]{1,20}$")]
    topic: Annotated[str, Meta(pattern=f"^({TOPIC})?$")] = ""
    """"" is the domain of each event."""
    key: Annotated[str, Meta(pattern=f"^({KEY})?$")] = ""
    """The attribute whose value chooses the partition; "" is ``partitionkey``."""
    name: Annotated[str, Meta(max_length=64)] = ""


class Document(msgspec.Struct, frozen=True):
    """All rules in their order, as they are handed out."""

    revision: Annotated[int, Meta(ge=0, le=2**53)]
    rules: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()
    former: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()
    """Rules of lately: where events may still lie that nobody has read, and where later ones no longer go."""
    format: int = FORMAT


NOTHING: Final = Document(0)


def decode(body: bytes) -> Document:
    """Read and check a document; RoutesError."""
    try:
        head = msgspec.json.decode(body, type=_Head)
        if head.format != FORMAT:
            raise RoutesError(f"The rules are in format {head.format}; this release follows format {FORMAT}.")
        document = msgspec.json.decode(body, type=Document)
        for rule in (*document.rules, *document.former):
            patterns.segments(rule.pattern)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, patterns.PatternError) as error:
        raise RoutesError(f"The rules can't be read: {error}") from None
    return document


class _Head(msgspec.Struct):
    format: int


@dataclass(frozen=True, slots=True)
class Lane:
    """One way events go: a topic of a broker. Within it a partition key keeps its order."""

    broker: str
    topic: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where one event goes, and by which rule (empty: none matched)."""

    lane: Lane
    key: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """What a rule says to an event: whether it matches, whether its target counts, and why (not)."""

    rule: Rule
    matches: bool
    applies: bool
    why: str


@dataclass(slots=True)
class _Node:
    below: dict[str, _Node] = field(default_factory=dict)
    rules: list[int] = field(default_factory=list)


class _Tree:
    """Rules by the segments of their patterns."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._root = _Node()
        for at, rule in enumerate(rules):
            node = self._root
            for segment in patterns.segments(rule.pattern):
                node = node.below.setdefault(segment, _Node())
            node.rules.append(at)

    def matching(self, event_type: str) -> list[int]:
        """Numbers of the rules that match, in order."""
        segments = event_type.split(".")
        found: set[int] = set()
        seen: set[tuple[int, int]] = set()
        waiting = [(self._root, 0)]
        while waiting:
            node, at = waiting.pop()
            if (id(node), at) in seen:
                continue
            seen.add((id(node), at))
            if at == len(segments):
                found.update(node.rules)
            elif at < len(segments):
                waiting += [(node.below[name], at + 1) for name in (segments[at], "*") if name in node.below]
            if EVERY in node.below:
                waiting += [(node.below[EVERY], later) for later in range(at, len(segments) + 1)]
        return sorted(found)


class Routes:
    """The rules of ``document``, compiled; ``default`` is the broker of what none of them matches."""

    def __init__(self, document: Document, default: str) -> None:
        self.document, self.default = document, default
        self._rules, self._former = _Tree(document.rules), _Tree(document.former)
        self._known: dict[str, tuple[Target, ...]] = {}

    @property
    def plain(self) -> bool:
        """Whether everything goes, and lately went, to the default broker by its domain."""
        return not self.document.rules and not self.document.former

    @property
    def brokers(self) -> frozenset[str]:
        """Those that events may go to."""
        return frozenset({self.default, *map(self._broker, self.document.rules)})

    def targets(self, event_type: str) -> tuple[Target, ...]:
        """Where events of this type go: at least one place."""
        known = self._known.get(event_type)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[event_type] = self._targets(event_type)
        return known

    def _targets(self, event_type: str) -> tuple[Target, ...]:
        found: dict[Lane, Target] = {}
        for at in self._rules.matching(event_type):
            rule = self.document.rules[at]
            lane = self._lane(rule, event_type)
            found.setdefault(lane, Target(lane, rule.key, rule.name or rule.pattern))
        return tuple(found.values()) or (Target(Lane(self.default, _domain(event_type))),)

    def formerly(self, event_type: str) -> frozenset[Lane]:
        """Where events of this type may have gone lately, by rules that are changed or gone."""
        return frozenset(self._lane(self.document.former[at], event_type) for at in self._former.matching(event_type))

    def _lane(self, rule: Rule, event_type: str) -> Lane:
        return Lane(self._broker(rule), rule.topic or _domain(event_type))

    def _broker(self, rule: Rule) -> str:
        return self.default if rule.broker == DEFAULT else rule.broker

    def reading(self, wanted: Sequence[str]) -> dict[str, frozenset[str]]:
        """Which brokers whoever wants these patterns has to read, and which topics beside the patterns' own: all that
        a rule sends there or sent there lately, and the default broker."""
        found: dict[str, set[str]] = {self.default: set()}
        for rule in (*self.document.rules, *self.document.former):
            if any(overlap(rule.pattern, pattern) for pattern in wanted):
                topics = found.setdefault(self._broker(rule), set())
                if rule.topic:
                    topics.add(rule.topic)
        return {broker: frozenset(topics) for broker, topics in found.items()}

    def explain(self, event_type: str) -> list[Reason]:
        """What each rule says to this type, in order: all that match, and some of the others."""
        matching = set(self._rules.matching(event_type))
        taken: set[Lane] = set()
        reasons: list[Reason] = []
        others = 0
        for at, rule in enumerate(self.document.rules):
            if at in matching:
                lane = self._lane(rule, event_type)
                why = f"goes to topic {lane.topic} of {lane.broker}"
                if lane in taken:
                    why = f"an earlier rule sends it to topic {lane.topic} of {lane.broker} already"
                reasons.append(Reason(rule, True, lane not in taken, why))
                taken.add(lane)
            elif others < MAX_WHY:
                others += 1
                reasons.append(Reason(rule, False, False, why_not(rule.pattern, event_type)))
        return reasons


def partition_key(event: CloudEvent, key: str) -> str:
    """What chooses the event's partition under a rule with this ``key``; its partition key where it lacks that one."""
    if not key or key == "partitionkey":
        return event.partition_key
    plain: Mapping[str, object] = {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "correlationid": event.correlation_id,
        "causationid": event.causation_id,
    }
    value = plain.get(key, event.extensions.get(key, ""))
    return str(value) if value != "" else event.partition_key


def why_not(pattern: str, event_type: str) -> str:
    """Why a pattern does not match, by the first segment that differs."""
    wanted, given = pattern.split("."), event_type.split(".")
    for at, want in enumerate(wanted):
        if want == EVERY:
            return f"what follows {'.'.join(wanted[:at]) or 'the beginning'} does not end as {pattern} asks"
        if at >= len(given):
            return f"it has {len(given)} segments, and the pattern asks for more"
        if want not in {"*", given[at]}:
            return f"segment {at + 1} is {given[at]}, and the pattern asks for {want}"
    return f"it has {len(given)} segments, and the pattern ends after {len(wanted)}"


@lru_cache(maxsize=4096)
def overlap(one: str, other: str) -> bool:
    """Whether some type matches both patterns."""
    left, right = patterns.segments(one), patterns.segments(other)
    seen: set[tuple[int, int]] = set()
    waiting = [(0, 0)]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        if at == (len(left), len(right)):
            return True
        waiting += _steps(left, right, *at)
    return False


def _steps(left: Sequence[str], right: Sequence[str], i: int, j: int) -> Iterator[tuple[int, int]]:
    mine, theirs = (left[i] if i < len(left) else None), (right[j] if j < len(right) else None)
    if mine == EVERY:
        yield i + 1, j
        if theirs is not None:
            yield i, j + 1
    if theirs == EVERY:
        yield i, j + 1
        if mine is not None:
            yield i + 1, j
    if mine is not None and theirs is not None and (mine == theirs or "*" in {mine, theirs}):
        yield i + 1, j + 1


def _domain(event_type: str) -> str:
    return event_type.partition(".")[0]
