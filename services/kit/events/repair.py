"""What a broker lost is fetched from who published it: holes in a key's numbers, and tails that nothing came after.

Publishers keep what they sent for a while (``services/kit/published.py`` answers for it). A hole shows by the numbers
around it. A lost tail shows by nothing that comes, so now and then what was heard is compared with how far the
publisher has come. What is fetched is handled like a delivery: proven, noted in the inbox, in order within its key.

Knows neither HTTP nor a database: how a publisher is asked and what was heard are handed in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec
from opentelemetry import metrics

from .cloudevent import CloudEvent, EventError, decode
from .lanes import Key
from .retry import Away
from .transport.base import Delivery

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
fetched = meter.create_counter("mc.bus.repaired", description="Events fetched from their publisher, which the bus lost")

TOPIC: Final = "published"
"""Where what was fetched is said to come from."""
MOST_EVENTS: Final = 200
MOST_BYTES: Final = 2 * 1024 * 1024
"""In one answer of a publisher, beyond the first event."""
MOST_KEYS: Final = 1000
PAGES: Final = 50
"""Answers that one hole may take in one round: the rest has its turn in the next, after the others."""
MOST_TARGETS: Final = 10_000
HOLES: Final = 100
OVERLAP_S: Final = 120.0
"""How far a comparison looks back before the last one: a row is marked as sent a little before that can be seen."""

T = TypeVar("T")
Get = Callable[[str], Awaitable[bytes]]
"""Asks a publisher for a path and query; Away when it does not answer, or not with 200."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Numbers of a key that are missing, both ends too."""

    key: Key
    start: int
    end: int


class Page(msgspec.Struct, frozen=True):
    """Some of what was published under a key, in order. ``complete``: there is nothing more between what was asked;
    ``first``: the lowest number that its publisher still has."""

    events: list[msgspec.Raw]
    complete: bool
    first: int


class Head(msgspec.Struct, frozen=True):
    """How far a key has come."""

    key: str
    last: int


class Heads(msgspec.Struct, frozen=True):
    """Keys that something was sent of, by name; ``next`` names the last of them when there are more. ``at`` is the
    publisher's wall clock."""

    heads: list[Head]
    at: float
    next: str | None = None


class Gaps(Protocol):
    """What a consumer knows of its keys. Everything raises ``Away`` while its database does not answer."""

    async def holes(self, most: int) -> list[Hole]:
        """Numbers that never came."""

    async def heard(self, keys: Sequence[Key]) -> dict[Key, int]:
        """The last number of each; a key that was never heard of is left out."""

    async def give_up(self, hole: Hole) -> None:
        """Its publisher has nothing of it any more."""


class Published:
    """One publisher's own log, asked by ``get``. Away too for what is no answer of one."""

    def __init__(self, get: Get) -> None:
        self._get = get

    async def page(self, key: str, after: int, until: int) -> Page:
        """What it sent under ``key`` with numbers over ``after`` up to ``until``."""
        return await self._ask("", Page, key=key, after=after, until=until)

    async def heads(self, since: float, patterns: Sequence[str]) -> Heads:
        """How far each key has come of which something was sent since then, counting types that match."""
        found = await self._ask("/heads", Heads, since=since, type=patterns)
        every, more = list(found.heads), found
        while more.next is not None and len(every) < MOST_TARGETS:
            more = await self._ask("/heads", Heads, since=since, type=patterns, after=more.next)
            every += more.heads
        return Heads(every, found.at)

    async def _ask(self, path: str, shape: type[T], **query: object) -> T:
        raw = await self._get(f"/events/published{path}?{urlencode(query, doseq=True)}")
        try:
            return msgspec.json.decode(raw, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Away(f"what it answers can't be read: {error}") from None


@dataclass(slots=True)
class _Target:
    """A key is to come as far as ``last``; it stood at ``heard`` at the last look."""

    last: int
    heard: int = -1


@dataclass(slots=True)
class _Source:
    since: float = 0.0
    targets: dict[str, _Target] = field(default_factory=dict)
    fault: str = ""


class Repair:
    """Keeps one consumer whole.

    ``find`` answers with a source's log, or None for one that has none that could be asked; ``sources`` are those whose
    tails are compared. With ``key`` nothing else is looked after.
    """

    def __init__(
        self,
        gaps: Gaps,
        find: Callable[[str], Awaitable[Published | None]],
        sources: Callable[[], Awaitable[Sequence[str]]],
        patterns: Sequence[str] = ("#",),
        key: str | None = None,
    ) -> None:
        self._gaps = gaps
        self._find = find
        self._sources = sources
        self._patterns = patterns
        self._key = key
        self._known: dict[str, _Source] = {}

    @property
    def behind(self) -> int:
        """Events that their publishers are known to have sent and that were not heard at the last look."""
        return sum(
            max(target.last - max(target.heard, 0), 0)
            for source in self._known.values()
            for target in source.targets.values()
            if target.heard >= 0
        )

    @property
    def waiting(self) -> bool:
        """Whether some key has not come as far as its publisher said."""
        return any(source.targets for source in self._known.values())

    @property
    def fault(self) -> str:
        """Why some publisher could not be asked."""
        return next((f"{name}: {source.fault}" for name, source in self._known.items() if source.fault), "")

    async def compare(self) -> None:
        """Ask every publisher how far it has come. Away when the consumer's own database is; a publisher that does not
        answer is a ``fault``."""
        sources = await self._sources()
        self._known = {name: self._known.get(name, _Source()) for name in sources}
        for name, source in self._known.items():
            try:
                published = await self._find(name)
                if published is None:
                    continue
                found = await published.heads(source.since, self._patterns)
                source.fault = ""
            except Away as error:
                source.fault = str(error) or type(error).__name__
                log.warning("%s can't be asked how far it has come: %s", name, source.fault)
                continue
            heard = await self._gaps.heard([(name, head.key) for head in found.heads])
            for head in found.heads:
                if self._key not in {None, head.key}:
                    continue
                if head.last > heard.get((name, head.key), 0) and len(source.targets) < MOST_TARGETS:
                    known = source.targets.setdefault(head.key, _Target(head.last))
                    known.last = max(known.last, head.last)
            source.since = max(found.at - OVERLAP_S, 0.0)

    async def mend(self, handle: Callable[[list[Delivery]], Awaitable[None]], *, idle: bool) -> int:
        """Fetch what is missing: holes, and tails that do not come by themselves; how many events were fetched.

        ``handle`` takes deliveries as the broker's are taken, and returns when all are settled. ``idle``: the broker
        has nothing more, so that whatever was not heard won't come. Else a key is left alone that came further since
        the last look.
        """
        count = 0
        for name, source in self._known.items():
            heard = await self._gaps.heard([(name, key) for key in source.targets])
            for key, target in list(source.targets.items()):
                now = heard.get((name, key), 0)
                if now >= target.last:
                    del source.targets[key]
                elif idle or now == target.heard:
                    target.heard = now
                    count += await self._fetch(Hole((name, key), now + 1, target.last), handle)
                else:
                    target.heard = now
            rest = await self._gaps.heard([(name, key) for key in source.targets])
            for key, target in list(source.targets.items()):
                if rest.get((name, key), 0) >= target.last:
                    del source.targets[key]
        for hole in await self._gaps.holes(HOLES):
            if self._key not in {None, hole.key[1]}:
                continue
            count += await self._fetch(hole, handle)
        return count

    async def _fetch(self, hole: Hole, handle: Callable[[list[Delivery]], Awaitable[None]]) -> int:
        """Fetch and handle what the publisher has of it."""
        (name, key), after, count = hole.key, hole.start - 1, 0
        source = self._known.setdefault(name, _Source())
        try:
            published = await self._find(name)
            if published is None:
                return 0
            for _ in range(PAGES):
                page = await published.page(key, after, hole.end)
                deliveries = [one for raw in page.events if (one := _delivery(bytes(raw), name, key, after, hole.end))]
                if deliveries:
                    await handle(deliveries)
                    count += len(deliveries)
                    assert deliveries[-1].event is not None  # noqa: S101 - _delivery sees to it
                    after = deliveries[-1].event.sequence
                if page.complete or not deliveries:
                    if page.complete:
                        source.fault = ""
                        await self._is_gone(Hole(hole.key, hole.start, min(hole.end, page.first - 1)))
                    break
        except Away as error:
            source.fault = str(error) or type(error).__name__
            log.warning("%s can't be asked for what is missing of it: %s", name, source.fault)
        if count:
            fetched.add(count, {"source": name})
            log.warning("%d events of %s, key %r, were fetched from it: the bus lost them", count, name, key)
        return count

    async def _is_gone(self, hole: Hole) -> None:
        """What was before the publisher's own log begins can't be fetched from it."""
        if hole.start <= hole.end:
            await self._gaps.give_up(hole)


def _delivery(raw: bytes, source: str, key: str, after: int, until: int) -> Delivery | None:
    """An event that was asked for; None for any other."""
    try:
        event: CloudEvent = decode(raw)
    except EventError as error:
        log.error("%s has what is no event in its log: %s", source, error)
        return None
    if (event.source, event.partition_key) != (source, key) or not after < event.sequence <= until:
        return None
    return Delivery(TOPIC, 0, f"{key}/{event.sequence}"[:255], 1, raw, event)


class Doubt:
    """Whether something may be lost that nothing shows yet: reading was cut off, or a broker forgot its groups.

    Over as soon as a comparison that began ``SURE_S`` after the last such moment has found everything.
    """

    SURE_S: Final = 5.0
    """Longer than a publisher takes from the broker's word to its note that a row is sent."""

    def __init__(self) -> None:
        self._breaks = 0
        self._since: float | None = None
        self._sure = False

    def begin(self, breaks: int) -> None:
        """Reading was cut off so often before this looks."""
        self._breaks = breaks

    def met(self, breaks: int) -> bool:
        """Take note of how often reading was cut off; whether that is news."""
        if breaks == self._breaks:
            return False
        self._breaks, self._since, self._sure = breaks, time.monotonic(), False
        return True

    @property
    def open(self) -> bool:
        """Whether it is."""
        return self._since is not None

    @property
    def unsure(self) -> bool:
        """Whether another comparison is wanted."""
        return self.open and not self._sure

    def compared(self, began: float) -> None:
        """A comparison that began then (monotonic seconds) went through."""
        if self._since is not None and began - self._since >= self.SURE_S:
            self._sure = True

    def settled(self) -> None:
        """Every key has come as far as it was to."""
        if self._sure:
            self._since = None
