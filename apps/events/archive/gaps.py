"""What the log lacks of what others published: the Gaps of the kit's repair, over the heads of foreign streams."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction

from apps.events.archive.inbox import ask
from apps.events.models import Event, EventType, Stream, foreign_stream, publisher_of
from services.kit.events.gaps import Heard
from services.kit.events.lanes import Key
from services.kit.events.repair import Hole

AT_ONCE = 500
SOURCES = 1000


class DjangoGaps:
    """Any number of processes may have one."""

    async def holes(self, most: int) -> list[Hole]:
        return await ask(holes, most)

    async def heard(self, keys: Sequence[Key]) -> dict[Key, int]:
        return await ask(heard, keys)

    async def give_up(self, hole: Hole) -> None:
        await ask(give_up, hole)


async def sources() -> list[str]:
    """Who is known to publish: by the registry of schemas, and by holes in what came of them."""
    return await ask(_sources)


def _sources() -> list[str]:
    told = {name for names in EventType.objects.values_list("producers", flat=True)[:SOURCES] for name in names}
    holed = Stream.objects.filter(missing__gt=0).values_list("name", flat=True)[:SOURCES]
    return sorted(told | {publisher_of(name)[0] for name in holed})[:SOURCES]


def holes(most: int) -> list[Hole]:
    """Numbers of foreign streams that never came."""
    rows = Stream.objects.filter(missing__gt=0).order_by("name").values_list("name", "holes")[:most]
    return [Hole(publisher_of(name), start, end) for name, pairs in rows for start, end in pairs][:most]


def heard(keys: Sequence[Key]) -> dict[Key, int]:
    """The last number of each."""
    names = {foreign_stream(*key): key for key in keys}
    found: dict[Key, int] = {}
    every = list(names)
    for start in range(0, len(every), AT_ONCE):
        rows = Stream.objects.filter(name__in=every[start : start + AT_ONCE]).values_list("name", "version")
        found |= {names[name]: version for name, version in rows}
    return found


def give_up(hole: Hole) -> None:
    """What was before the log knew of a key is not missing from it; any other hole is."""
    if hole.start != 1:
        return
    with transaction.atomic():
        stream = Stream.objects.select_for_update().filter(pk=foreign_stream(*hole.key)).first()
        if stream is None:
            return
        pairs = [(max(start, hole.end + 1), end) for start, end in stream.holes if end > hole.end]
        # What retention has taken was there.
        if Event.objects.filter(stream=stream.pk, version__lte=hole.end).exists():
            return
        stream.holes, stream.missing = pairs, Heard(stream.version, tuple(pairs)).missing
        stream.save(update_fields=["holes", "missing"])
