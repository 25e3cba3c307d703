"""``manage.py events tail``: prints the log as it grows, each event once and in its order."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.conf import settings
from django.db import close_old_connections

from apps.events import nudges, sequencer
from apps.events.models import Event
from apps.events.queries import MOST, Reading, following, head
from apps.lib import aio
from services.kit.events import patterns
from services.kit.events.cloudevent import encode

HELP = "Print the events of the log, and then each new one until Ctrl-C."
LOOK_EVERY_S = 5.0
"""How long a lost nudge can cost."""
NUMBERING_S = 0.1
"""Between two looks while an event that is committed waits for its position."""


class Wrong(ValueError):
    """What was asked for can't be followed; the message is one sentence."""


def add(commands: Any) -> None:
    """The subcommand ``tail``."""
    parser = commands.add_parser("tail", help=HELP, description=HELP)
    parser.set_defaults(handle=run)
    parser.add_argument("patterns", nargs="*", default=["#"], metavar="PATTERN", help="such as system.# (default: all)")
    parser.add_argument("--source", default="", help="only what this publisher published")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--after", type=int, metavar="POSITION", help="begin behind this position; 0 is the beginning")
    begin.add_argument("--since", metavar="TIME", help="begin at the first event of this time (RFC 3339) or later")
    parser.add_argument("--json", action="store_true", help="a CloudEvent in JSON a line")
    parser.add_argument("--no-follow", action="store_true", help="end at the end of the log")


def run(said: Namespace, out: Any) -> None:
    """PatternError or Wrong for what can't be followed. BrokenPipeError when nobody reads any more."""
    for pattern in said.patterns:
        patterns.segments(pattern)
    aio.run(_tail(vars(said), out))


async def _tail(options: dict[str, Any], out: Any) -> None:
    bell = asyncio.Event()
    position = await aio.in_thread(_begin, options)
    listener = asyncio.create_task(nudges.listen(settings.REDIS_URL, bell), name="tail nudges")
    try:
        while True:
            bell.clear()
            reading, more = await aio.in_thread(_look, position, options["patterns"])
            for event in reading.events:
                if options["source"] in ("", event.source):
                    out.write(_line(event, as_json=options["json"]))
            out.flush()
            full, position = len(reading.events) == MOST, reading.position
            if full:
                continue
            if options["no_follow"]:
                return
            await _wait(bell, NUMBERING_S if more else LOOK_EVERY_S)
    finally:
        await aio.end(listener)


async def _wait(bell: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        pass


def _begin(options: dict[str, Any]) -> int:
    if options["since"] is not None:
        try:
            at = datetime.fromisoformat(options["since"])
        except ValueError:
            raise Wrong(f"{options['since']!r} is no RFC 3339 time, such as 2026-11-25T04:00:00Z.") from None
        rows = Event.objects.filter(time__gte=at if at.tzinfo else at.replace(tzinfo=UTC), position__isnull=False)
        first = rows.order_by("time", "position").values_list("position", flat=True).first()
        return head() if first is None else first - 1
    if options["after"] is None:
        return head()
    if options["after"] < 0:
        raise Wrong("A position is a whole number from 0.")
    return int(options["after"])


def _look(position: int, types: list[str]) -> tuple[Reading, bool]:
    close_old_connections()
    waits = sequencer.unnumbered().exists()
    return following(position, types, limit=MOST), waits


def _line(event: Event, *, as_json: bool) -> str:
    if as_json:
        return encode(event.as_cloudevent()).decode()
    at = event.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = msgspec.json.encode(event.data).decode()
    return f"{event.position:>9}  {at}  {event.source}  {event.type}  {event.subject or '-'}  {data}"
