"""One member's reading of several brokers: a subscription to each that the rules name, merged.

A broker's partitions are told from another's by its name in front of the topic. The brokers that are read never become
fewer while a process runs, nor at its start as long as the group has something left there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from msgspec.structs import replace

from ..routing import Routes
from .base import Delivery, Place, Start, Subscription, Transport, TransportAway

log = logging.getLogger(__name__)

AGAIN_S: Final = 5.0
"""Before a broker is tried again that could not be subscribed to."""


class Brokers(Protocol):
    """What is read: several brokers under rules."""

    @property
    def routes(self) -> Routes:
        """The rules in use."""

    @property
    def kinds(self) -> list[str]:
        """The brokers whose place is known."""

    def broker(self, kind: str) -> Transport:
        """One of them; TransportAway for one that is not known."""


@dataclass(slots=True)
class _Arm:
    """The subscription to one broker."""

    kind: str
    topics: frozenset[str]
    subscription: Subscription
    fetching: asyncio.Task[list[Delivery]] | None = None
    held: Counter[Place] = field(default_factory=Counter)
    """How many are given out, by its own names of partitions."""


class Reading:
    """One member's Subscription."""

    def __init__(
        self,
        brokers: Brokers,
        patterns: Sequence[str],
        group: str,
        member: str,
        topics: Collection[str],
        start: Start,
        lease_s: float,
    ) -> None:
        self._brokers, self._patterns, self._group, self._member = brokers, patterns, group, member
        self._topics, self._start, self._lease_s = topics, start, lease_s
        self._arms: dict[str, _Arm] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        self._lost: set[Place] = set()
        self._known = False
        """Whether the group was there before some broker of it: what comes later it reads from its beginning."""
        self._changed = asyncio.Event()
        self._again_at = 0.0
        self._closed = False

    def rearrange(self) -> None:
        """There are new rules."""
        self._changed.set()

    async def begin(self) -> None:
        """Subscribe to what the rules say, and to what else has something left for the group."""
        self._want()
        if len(self._brokers.kinds) > 1:
            await asyncio.gather(*(self._ask(kind) for kind in self._brokers.kinds))
        await self._arrange()
        self._known = True

    async def _ask(self, kind: str) -> None:
        """Whether a broker knows the group, and has something for it."""
        try:
            left = await self._brokers.broker(kind).lag(self._group)
        except TransportAway as error:
            if kind in self._wanted:
                # It may know the group; then nothing of it may be passed over.
                self._known = True
            log.warning("Group %s: whether %s has something left for it is not known: %s", self._group, kind, error)
            return
        self._known = self._known or bool(left)
        if any(left.values()):
            topics = {place.rpartition("/")[0] for place in left} if kind not in self._wanted else ()
            self._wanted[kind] = self._wanted.get(kind, frozenset()) | frozenset(topics)

    def _want(self) -> None:
        self._changed.clear()
        self._again_at = float("inf")
        for kind, topics in self._brokers.routes.reading(self._patterns).items():
            if kind in self._brokers.kinds:
                self._wanted[kind] = self._wanted.get(kind, frozenset()) | topics
            else:
                log.warning("Group %s: rules name %s, and this process was not told where it is.", self._group, kind)

    async def _arrange(self) -> None:
        """Have a subscription where one is wanted; one that lacks topics is made anew when nothing of it is in hand."""
        for kind, topics in self._wanted.items():
            arm = self._arms.get(kind)
            if arm is not None and topics <= arm.topics:
                continue
            if arm is not None:
                if arm.held.total() or (arm.fetching is not None and arm.fetching.done()):
                    self._again_at = 0.0
                    continue
                await self._end(arm)
                del self._arms[kind]
            try:
                subscription = await self._brokers.broker(kind).subscribe(
                    self._patterns,
                    self._group,
                    self._member,
                    topics={*self._topics, *topics},
                    start="earliest" if self._known else self._start,
                    lease_s=self._lease_s,
                )
            except TransportAway as error:
                log.warning("Group %s can't subscribe to %s yet: %s", self._group, kind, error)
                self._again_at = min(self._again_at, time.monotonic() + AGAIN_S)
                continue
            self._arms[kind] = _Arm(kind, topics, subscription)

    # -- reading ---------------------------------------------------------------------------------

    async def fetch(self, most: int, wait_s: float) -> list[Delivery]:
        deadline = time.monotonic() + wait_s
        while not self._closed:
            if self._changed.is_set() or time.monotonic() >= self._again_at:
                self._want()
                await self._arrange()
            arms = list(self._arms.values())
            share = max(most // max(len(arms), 1), 1)
            left = max(deadline - time.monotonic(), 0.0)
            if len(arms) == 1 and arms[0].fetching is None and self._again_at == float("inf"):
                return self._given(arms[0], await arms[0].subscription.fetch(most, left))
            for arm in arms:
                # One whose subscription is to be made anew takes nothing more.
                if arm.fetching is None and self._wanted[arm.kind] <= arm.topics:
                    arm.fetching = asyncio.create_task(arm.subscription.fetch(share, left), name=f"fetch {arm.kind}")
            tasks = [arm.fetching for arm in arms if arm.fetching is not None]
            await self._wait(tasks, min(left, max(self._again_at - time.monotonic(), 0.05)))
            found = [one for arm in arms for one in self._collect(arm)]
            if found or time.monotonic() >= deadline:
                return found
        return []

    async def _wait(self, tasks: list[asyncio.Task[list[Delivery]]], seconds: float) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({changed, *tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            await asyncio.gather(changed, return_exceptions=True)

    def _collect(self, arm: _Arm) -> list[Delivery]:
        task = arm.fetching
        if task is None or not task.done():
            return []
        arm.fetching = None
        try:
            return self._given(arm, task.result())
        except TransportAway as error:
            log.warning("Group %s waits for %s: %s", self._group, arm.kind, error)
            return []

    def _given(self, arm: _Arm, found: list[Delivery]) -> list[Delivery]:
        for delivery in found:
            arm.held[delivery.place] += 1
        return [replace(delivery, broker=arm.kind) for delivery in found]

    # -- settling --------------------------------------------------------------------------------

    def _parts(self, deliveries: Sequence[Delivery]) -> list[tuple[_Arm, list[Delivery]]]:
        """Who has them, and as he knows them. What is of a subscription that was made anew is late, and changes
        nothing."""
        found: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            found.setdefault(delivery.broker, []).append(replace(delivery, broker=""))
        return [(self._arms[kind], some) for kind, some in found.items() if kind in self._arms]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for arm, some in self._parts(deliveries):
            await arm.subscription.ack(some)
            self._settled(arm, some)

    async def nack(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        for arm, some in self._parts(deliveries):
            await arm.subscription.nack(some, delay_s)
            self._settled(arm, some)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        for arm, some in self._parts([delivery]):
            await arm.subscription.dead_letter(some[0], reason)
            self._settled(arm, some)

    def _settled(self, arm: _Arm, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if arm.held[delivery.place] > 1:
                arm.held[delivery.place] -= 1
            else:
                del arm.held[delivery.place]

    async def extend(self) -> set[Place]:
        arms = list(self._arms.values())
        answers = await asyncio.gather(*(arm.subscription.extend() for arm in arms), return_exceptions=True)
        gone: BaseException | None = None
        for arm, answer in zip(arms, answers, strict=True):
            if isinstance(answer, BaseException):
                gone = gone if isinstance(answer, TransportAway) and gone is not None else answer
                continue
            for topic, number in answer:
                del arm.held[(topic, number)]
                self._lost.add((f"{arm.kind}/{topic}", number))
        if gone is not None:
            # What was lost elsewhere is told next time: it is said only once by those who know.
            raise gone
        lost, self._lost = self._lost, set()
        return lost

    async def seek(self, start: Start) -> None:
        for arm in self._arms.values():
            await arm.subscription.seek(start)

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        for arm in self._arms.values():
            await self._end(arm)

    async def _end(self, arm: _Arm) -> None:
        if arm.fetching is not None:
            arm.fetching.cancel()
            await asyncio.gather(arm.fetching, return_exceptions=True)
        await arm.subscription.close()
