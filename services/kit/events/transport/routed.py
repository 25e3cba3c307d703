"""Several brokers as one Transport: each event goes where the rules say, and a group reads wherever they say.

While there are no rules it is the default broker and nothing else. With rules, a broker that is away puts off its own
events alone: ``publish`` answers each of them with ``Waits``, and those of others go. A key's events leave in order
whatever brokers they go to, and a type that moves to another waits for the old one to be empty (``moves``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from opentelemetry import metrics

from .. import routing
from ..patterns import segments
from ..retry import Backoff
from ..routing import Document, Lane, Routes, Target
from .base import Outgoing, Rejected, Start, Stats, Transport, TransportAway, TransportError, Waits
from .connect import connect
from .moves import Moves
from .routed_reading import Reading

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
away = meter.create_gauge("mc.bus.away", description="1 while a broker takes no events of this process, by broker")
routed = meter.create_counter("mc.bus.routed", description="Events that brokers took, by broker")

PAUSES: Final = Backoff(first_s=0.5, most_s=5.0)
"""Between two looks at whether a broker is back."""
AGAIN: Final = Backoff(first_s=0.5, most_s=15.0)
"""Until a row is offered again: one for each key that waits is written each time."""
MOVE_AGAIN_S: Final = 0.5
BEHIND_S: Final = 0.1
MAX_TAKEN: Final = 10_000
"""Events with several targets of which some broker has taken its own: they are remembered, so that another's absence
does not bring it the event again."""


@dataclass(slots=True)
class _Place:
    """One broker as it is known here."""

    transport: Transport
    tries: int = 0
    why: str = ""
    watching: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Send:
    """An event on its way to one target of it."""

    at: int
    out: Outgoing
    lane: Lane


@dataclass(slots=True)
class _Plan:
    """A batch, split: what is sent beside each other, by broker, and what afterwards."""

    answers: list[Rejected | Waits | None]
    waves: list[dict[str, list[_Send]]] = field(default_factory=list)


class Routed:
    """The Transport over the brokers at ``urls``, by kind; ``default`` is the kind of what no rule matches."""

    def __init__(self, urls: Mapping[str, str], default: str, *, keep: int = 0) -> None:
        self.name = default
        self.whole = ""
        self._urls, self._default, self._keep = dict(urls), default, keep
        self._places: dict[str, _Place] = {}
        self._routes = Routes(routing.NOTHING, default)
        self._moves = Moves(self.broker, lambda: self.kinds)
        self._taken: OrderedDict[tuple[str, str], set[Lane]] = OrderedDict()
        self._readings: set[Reading] = set()
        self.broker(default)

    # -- rules -----------------------------------------------------------------------------------

    @property
    def routes(self) -> Routes:
        """The rules in use."""
        return self._routes

    def adopt(self, document: Document) -> None:
        """Go by these rules from now on."""
        self._routes = Routes(document, self._default)
        self._moves.adopt(self._routes)
        for reading in self._readings:
            reading.rearrange()
        # Nobody offers it anything from now on, and would see that it is back.
        for kind, place in self._places.items():
            if place.tries and not self._needs(kind):
                self._forget_absence(kind, place)

    def _needs(self, kind: str) -> bool:
        """Whether rules send events there."""
        return not self._routes.plain and kind in self._routes.brokers

    @property
    def kinds(self) -> list[str]:
        """The brokers whose place is known."""
        return list(self._urls)

    def broker(self, kind: str) -> Transport:
        """One of them; TransportAway for one whose URL this process was not told."""
        return self._place(kind).transport

    def _place(self, kind: str) -> _Place:
        place = self._places.get(kind)
        if place is None:
            if kind not in self._urls:
                raise TransportAway(f"This process was not told where {kind} is.")
            place = self._places[kind] = _Place(connect(self._urls[kind], keep=self._keep))
        return place

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Rejected | Waits | None]:
        if self._routes.plain:
            return await self.broker(self._default).publish(batch)
        plan = self._split(batch)
        failed: set[tuple[str, str]] = set()
        for number, wave in enumerate(plan.waves):
            for sends in wave.values() if number else ():
                for send in sends:
                    if _key(send.out) in failed:
                        plan.answers[send.at] = Waits("It waits behind an earlier event of its key.", BEHIND_S)
            # Chosen before any is offered: what one broker does not take now, another may.
            going = {kind: [one for one in sends if plan.answers[one.at] is None] for kind, sends in wave.items()}
            await asyncio.gather(*(self._offer(kind, sends, plan.answers) for kind, sends in going.items() if sends))
            failed |= {_key(out) for out, answer in zip(batch, plan.answers, strict=True) if answer is not None}
        return plan.answers

    def _split(self, batch: Sequence[Outgoing]) -> _Plan:
        """A key whose events go different ways goes them one after the other: the next when the last is confirmed."""
        plan = _Plan([None] * len(batch))
        last: dict[tuple[str, str], tuple[int, frozenset[Lane]]] = {}
        held: set[tuple[str, str]] = set()
        for at, out in enumerate(batch):
            targets = self._targets(out)
            lanes = frozenset(target.lane for target in targets)
            key = _key(out)
            if key in held:
                plan.answers[at] = Waits("It waits behind an earlier event of its key.", BEHIND_S)
                continue
            if why := self._moves.waits(out.event.type, lanes):
                plan.answers[at] = Waits(why[:1].upper() + why[1:] + ".", MOVE_AGAIN_S)
                held.add(key)
                continue
            number, before = last.get(key, (0, lanes))
            number += before != lanes
            last[key] = (number, lanes)
            if number == len(plan.waves):
                plan.waves.append({})
            taken = self._taken.get((out.event.source, out.event.id), ()) if len(targets) > 1 else ()
            for target in targets:
                if target.lane not in taken:
                    sent = Outgoing(out.event, target.lane.topic, _by(out, target))
                    plan.waves[number].setdefault(target.lane.broker, []).append(_Send(at, sent, target.lane))
        return plan

    def _targets(self, out: Outgoing) -> Sequence[Target]:
        if out.topic:
            return [Target(Lane(self._default, out.topic), out.key)]
        return self._routes.targets(out.event.type)

    async def _offer(self, kind: str, going: list[_Send], answers: list[Rejected | Waits | None]) -> None:
        """Hand over what goes to one broker, and note the answers; one that is away puts off its own."""
        try:
            place = self._place(kind)
            if place.watching is not None:
                raise TransportAway(place.why)
            said = await place.transport.publish([send.out for send in going])
        except TransportAway as error:
            again_s = AGAIN.longest(self._is_away(kind, error))
            for send in going:
                answers[send.at] = Waits(f"{kind}: {error}", again_s)
            return
        if place.tries:
            log.warning("%s is back.", kind)
            self._forget_absence(kind, place)
        routed.add(sum(answer is None for answer in said), {"broker": kind})
        for send, answer in zip(going, said, strict=True):
            if answer is not None:
                answers[send.at] = answer
            else:
                self._note(send)

    def _note(self, send: _Send) -> None:
        """A broker has its own of an event that has several."""
        event = send.out.event
        targets = self._routes.targets(event.type)
        if len(targets) < 2:
            return
        identity = (event.source, event.id)
        taken = self._taken.setdefault(identity, set())
        taken.add(send.lane)
        if len(taken) == len(targets):
            del self._taken[identity]
        elif len(self._taken) > MAX_TAKEN:
            self._taken.popitem(last=False)

    def _is_away(self, kind: str, error: TransportAway) -> int:
        """Say so once, and look beside everything else when it is back; how often that was tried."""
        place = self._places.get(kind)
        if place is None:
            return 10
        if not self._needs(kind):
            return 1  # the rules changed while it was waited for
        place.why = str(error)
        if place.watching is None:
            if not place.tries:
                log.warning("%s is away (%s): its events wait in the outbox, others go.", kind, error)
                away.set(1, {"broker": kind})
            place.tries += 1
            place.watching = asyncio.create_task(self._watch(place), name=f"waiting for {kind}")
        return place.tries

    def _forget_absence(self, kind: str, place: _Place) -> None:
        away.set(0, {"broker": kind})
        place.tries = 0
        if place.watching is not None:
            place.watching.cancel()
            place.watching = None

    async def _watch(self, place: _Place) -> None:
        """Until the broker answers. Whether it takes events too is seen by offering it some."""
        tries = place.tries
        while True:
            await asyncio.sleep(PAUSES.pause(tries, random.uniform(0.5, 1.0)))  # noqa: S311 - jitter
            try:
                await place.transport.groups()
            except TransportError as error:
                place.why = str(error)
                tries += 1
                place.tries = tries
                continue
            place.watching = None
            return

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        patterns: Sequence[str],
        group: str,
        member: str,
        *,
        topics: Collection[str] = (),
        start: Start = "earliest",
        lease_s: float = 30.0,
    ) -> Reading:
        for pattern in patterns:
            segments(pattern)
        reading = Reading(self, patterns, group, member, topics, start, lease_s)
        self._readings.add(reading)
        await reading.begin()
        return reading

    def carriers(self, event_type: str) -> set[str]:
        return {target.lane.broker for target in self._routes.targets(event_type)}

    async def groups(self) -> set[str]:
        return set().union(*[await place.transport.groups() for place in list(self._places.values())])

    async def lag(self, group: str) -> dict[str, int]:
        """As the seam says, of the brokers that answer; TransportAway when none does."""
        kinds = list(self._places)
        answers = await asyncio.gather(
            *(self._places[kind].transport.lag(group) for kind in kinds), return_exceptions=True
        )
        found: dict[str, int] = {}
        for kind, answer in zip(kinds, answers, strict=True):
            if isinstance(answer, TransportAway):
                continue
            if isinstance(answer, BaseException):
                raise answer
            found |= {place if len(kinds) == 1 else f"{kind}/{place}": count for place, count in answer.items()}
        if all(isinstance(answer, TransportAway) for answer in answers):
            raise TransportAway("; ".join(map(str, answers)))
        return found

    def stats(self) -> Stats:
        met = [place.transport.stats() for place in self._places.values()]
        return Stats(*(sum(getattr(one, name.name) for one in met) for name in fields(Stats)))

    async def close(self) -> None:
        ending = list(self._moves.end())
        for place in self._places.values():
            if place.watching is not None:
                place.watching.cancel()
                ending.append(place.watching)
        await asyncio.gather(*ending, return_exceptions=True)
        for reading in list(self._readings):
            await reading.close()
        self._readings.clear()
        for place in self._places.values():
            await place.transport.close()


def _key(out: Outgoing) -> tuple[str, str]:
    return (out.event.source, out.event.partition_key or f"\x1f{out.event.id}")


def _by(out: Outgoing, target: Target) -> str:
    return routing.partition_key(out.event, target.key) if target.key else out.key
