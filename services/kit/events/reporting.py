"""What a consumer says about itself on the bus, and whom it obeys.

A consumer reports that it has started, which events it holds as rows because they failed, and how each of these ended.
Mission Control makes dead letters of that, and sends its operators' words back: try it again, discard it, put an edited
one in its place. All of it travels as events of the domain ``control``, signed like any other.

Reports are rows of the consumer's own store first, and are published until the broker has them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from opentelemetry import metrics

from .cloudevent import CloudEvent, EventError, decode
from .retry import Away, Backoff
from .signing import CONTROL, Keys, NoKey
from .transport.base import Outgoing, Transport, TransportAway, Waits

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
reported = meter.create_counter("mc.bus.reports", description="Reports of a consumer about its events, by outcome")

STARTED: Final = "control.consumer.started"
PARKED: Final = "control.delivery.parked"
RESOLVED: Final = "control.delivery.resolved"
REDRIVE: Final = "control.delivery.redrive"
DISCARD: Final = "control.delivery.discard"
REPLACE: Final = "control.delivery.replace"
COMMANDS: Final = (REDRIVE, DISCARD, REPLACE)
"""What every consumer that reports also reads."""

MOST: Final = 100
"""Reports published at once."""
MOST_NAMED: Final = 500
"""Events that one command names."""
MAX_STACK: Final = 8192
LOOK_EVERY_S: Final = 60.0
"""A bell may be missed by another member's rows: how long that can cost."""
PAUSES: Final = Backoff(first_s=0.5, most_s=15.0)
SPACE: Final = uuid.UUID("6f0c6d2c-2b5e-5d1c-9d3a-7a1e6f3c0b57")

Identity = tuple[str, str]
"""An event's source and id."""


@dataclass(frozen=True, slots=True)
class Report:
    """Something to say, and when it happened. ``name`` is the same for the same thing however often it is said."""

    type: str
    name: str
    at: float
    data: dict[str, Any]
    row: int
    version: int


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's word about rows. ``replacement`` stands in the place of the one event that it names."""

    type: str
    events: tuple[Identity, ...]
    replacement: CloudEvent | None = None


class Rows(Protocol):
    """A consumer's parked rows, as they are told of. Everything raises ``Away`` while the database does not answer."""

    async def untold(self, most: int) -> list[Report]:
        """What nobody was told yet, in order; it may be told from now on."""

    async def told(self, reports: Sequence[Report]) -> None:
        """The broker has them."""

    async def obey(self, command: Command) -> int:
        """Do it; how many rows it meant. What is asked twice is done once."""


def read_command(event: CloudEvent, group: str) -> Command | None:
    """The command for ``group`` that ``event`` holds; None when it is not for it, or not Mission Control's.

    EventError for one that can't be understood.
    """
    if event.type not in COMMANDS or event.source != CONTROL:
        return None
    data = event.data
    if not isinstance(data, dict) or data.get("group") != group:
        return None
    named = data.get("events")
    if not isinstance(named, list) or len(named) > MOST_NAMED:
        raise EventError(f"The command must name its events, {MOST_NAMED} at most.")
    events = tuple(_identity(one) for one in named)
    if event.type != REPLACE:
        return Command(event.type, events)
    if len(events) != 1 or not isinstance(data.get("body"), str):
        raise EventError("The command must name one event, and hold the one that takes its place.")
    return Command(event.type, events, decode(data["body"]))


def _identity(given: Any) -> Identity:
    if isinstance(given, dict):
        source, name = given.get("source"), given.get("event_id")
        if isinstance(source, str) and isinstance(name, str):
            return (source, name)
    raise EventError("The command must name each event by its source and event_id.")


class Reporter:
    """Publishes what ``rows`` have to say, for ``group``."""

    def __init__(self, transport: Transport, rows: Rows, keys: Keys, group: str) -> None:
        self._transport = transport
        self._rows = rows
        self._keys = keys
        self._group = group
        self.bell = asyncio.Event()
        """Rung when rows have changed."""

    async def run(self, stopping: asyncio.Event, announcement: dict[str, Any]) -> None:
        """Announce the group, and report until stopped."""
        name, began = uuid.uuid4().hex, time.time()
        announced, tries = False, 0
        while not stopping.is_set():
            self.bell.clear()
            pause = LOOK_EVERY_S
            try:
                if not announced:
                    await self._publish([Report(STARTED, name, began, announcement, 0, 0)])
                    announced = True
                while await self._turn():
                    pass
                tries = 0
            except (Away, TransportAway) as error:
                tries += 1
                pause = PAUSES.pause(tries, random.random())  # noqa: S311 - jitter
                log.debug("%s can't report: %s", self._group, error)
            await self._sleep(pause, [stopping] if tries else [stopping, self.bell])

    async def _turn(self) -> bool:
        """Publish some; whether there may be more."""
        reports = await self._rows.untold(MOST)
        if reports:
            await self._publish(reports)
            await self._rows.told(reports)
        return len(reports) == MOST

    async def _publish(self, reports: Sequence[Report]) -> None:
        try:
            batch = [Outgoing(self._keys.sign(self._event(one), self._group)) for one in reports]
        except NoKey as error:
            raise TransportAway(str(error)) from None
        for one, refused in zip(reports, await self._transport.publish(batch), strict=True):
            if isinstance(refused, Waits):
                # Where they go is away. What others of them were taken is said again, and is the same.
                raise TransportAway(str(refused))
            reported.add(1, {"group": self._group, "outcome": "refused" if refused else "sent"})
            if refused:
                # It will be refused again: the row stays, and its page lacks it.
                log.error("the bus refused a report of %s (%s): %s", self._group, one.type, refused)

    def _event(self, report: Report) -> CloudEvent:
        name = uuid.uuid5(SPACE, "\x1f".join((self._group, report.type, report.name, str(report.version))))
        return CloudEvent(str(name), report.type, self._group, report.at, report.data, partition_key=self._group)

    async def _sleep(self, seconds: float, events: Sequence[asyncio.Event]) -> None:
        tasks = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
