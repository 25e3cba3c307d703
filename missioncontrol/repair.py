"""``manage.py events repair``: fetch from publishers, by hand, what the log lacks of their events."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from apps.events.archive import gaps, inbox
from apps.lib import aio
from missioncontrol import publishers
from services.kit.events import keys
from services.kit.events.lanes import Outcome
from services.kit.events.retry import Away
from services.kit.events.transport.base import Delivery


def add(commands: Any) -> None:
    """Its words."""
    words = commands.add_parser("repair", help="fetch from publishers what the log lacks of their events")
    words.add_argument("--source", default="", help="only of this publisher")
    words.add_argument("--key", default=None, help="only of this partition key")
    words.set_defaults(handle=repair)


def repair(said: Namespace, out: Any) -> None:
    """Compare with every publisher and fetch at once; exit 1 while something is missing. Safe beside relays."""
    try:
        count, fault = aio.run(_repair(said.source, said.key))
    except Away as error:
        raise CommandError(f"The database is away: {error}") from None
    left = [hole for hole in gaps.holes(gaps.SOURCES) if _chosen(hole.key, said.source, said.key)]
    out.write(f"{count:,} events were fetched from their publishers.")
    for hole in left:
        out.write(f"still missing: {hole.key[0]}, key {hole.key[1]!r}, numbers {hole.start:,} to {hole.end:,}")
    if left or fault:
        raise CommandError(fault or "The publishers have no more of it.")


async def _repair(source: str, key: str | None) -> tuple[int, str]:
    """How many events were fetched, and who could not be asked."""
    own = keys.read()

    async def handle(deliveries: Sequence[Delivery]) -> None:
        believed = [one for one in deliveries if one.event is not None and not own.refusal(one.event)]
        outcomes: list[Outcome] = await inbox.ask(inbox.take, believed) if believed else []
        if len(outcomes) < len(deliveries):
            raise Away("what it answers is not signed by its key")

    async with publishers.repair(source, key) as mender:
        await mender.compare()
        count = await mender.mend(handle, idle=True)
        return count, mender.fault


def _chosen(name: tuple[str, str], source: str, key: str | None) -> bool:
    return (not source or name[0] == source) and (key is None or name[1] == key)
