"""Projections: rows that are folded from the log, each with the position that it has come to.

A projection is two pure functions: which rows an event touches, and what becomes of each. Rows and position are written
in one transaction, so an event has its effect once, whatever is killed. A rebuild goes through the log again beside the
live build, which serves on; then the two are compared and, in one transaction, change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max, QuerySet
from msgspec.structs import replace

from apps.events.models import Build, BuildRow, Event
from apps.events.queries import following, head
from apps.events.upcast import UPCASTERS
from apps.lib import clock
from services.kit.events.cloudevent import CloudEvent

BATCH = 500
CHUNK = 500
CLOSE = 5_000
"""How far a build may be behind to be compared or swapped: that much is caught up while the live one waits."""
MAX_KEY = 255
MOST_SHOWN = 20
"""Keys that a comparison names."""

LIVE, BUILDING, OLD = Build.Role.LIVE, Build.Role.BUILDING, Build.Role.OLD


class NotReady(Exception):
    """The build can't be compared, swapped or begun now; the message says why."""


@dataclass(frozen=True, slots=True)
class Projection:
    """``keys`` names the rows that an event touches, and ``apply`` gives a row after it: JSON, or None for no row.

    Both are pure. ``apply`` gets None where there is no row yet, and returns a new value instead of changing the old.
    Events come in the order of the log, in the words of their newest schema version.
    """

    name: str
    keys: Callable[[CloudEvent], Iterable[str]]
    apply: Callable[[Any, CloudEvent], Any]
    types: tuple[str, ...] = ("#",)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: at ``position`` of ``target``. ``fault`` says why it stands still, if it does."""

    projection: str
    generation: int
    role: str
    position: int
    target: int
    fault: str

    @property
    def behind(self) -> int:
        """Positions still to read."""
        return max(self.target - self.position, 0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two builds at the same position: how many rows each has, how many keys differ, and the first of these."""

    position: int
    live: int
    building: int
    differing: int
    keys: list[str]


REGISTERED: dict[str, Projection] = {}


def register(projection: Projection) -> Projection:
    """Have the relay processes keep it up to date. ValueError for a name that another one has."""
    if REGISTERED.setdefault(projection.name, projection) is not projection:
        raise ValueError(f"There is a projection {projection.name} already.")
    return projection


def rows(name: str) -> QuerySet[BuildRow]:
    """What people see of it: the rows of its live build, empty while there is none."""
    return BuildRow.objects.filter(build__projection=name, build__role=LIVE)


def progress() -> list[Progress]:
    """Every build, live ones first."""
    target = head()
    builds = Build.objects.exclude(role=OLD).order_by("-role", "projection")
    return [Progress(one.projection, one.generation, one.role, one.position, target, one.fault) for one in builds]


def advance(projection: Projection, role: str = LIVE, limit: int = BATCH) -> bool:
    """Take one batch of the log into the build with this role; whether it has moved. Somebody else may be at it."""
    at = Build.objects.filter(projection=projection.name, role=role).values_list("position", flat=True).first()
    if at is None and role == LIVE:
        _begin(projection.name, LIVE)
    elif at is None or at >= head():
        return False
    with transaction.atomic():
        build = _locked(projection.name, skip=True).filter(role=role).first()
        return build is not None and _take(projection, build, limit)


def rebuild(name: str) -> None:
    """Begin a new build beside the live one. NotReady while another is under way."""
    if not _begin(name, BUILDING):
        raise NotReady(f"A build of {name} is under way: swap or discard it first.")


def compare(projection: Projection) -> Comparison:
    """Hold the new build against the live one, both brought to the same position. NotReady while it is far behind."""
    with transaction.atomic():
        live, new = _caught_up(projection)
        if new.position - live.position > CLOSE:
            raise NotReady(f"The live build stands {new.position - live.position:,} events behind the new one.")
        while live.position < new.position:
            _take(projection, live, BATCH, new.position)
        counts = live.rows.count(), new.rows.count()
        differing, keys = 0, []
        for key in _differing(live, new):
            differing += 1
            if len(keys) < MOST_SHOWN:
                keys.append(key)
        return Comparison(live.position, *counts, differing, keys)


def swap(projection: Projection) -> None:
    """Make the new build the live one: it is where that was, or further. NotReady while it is far behind."""
    with transaction.atomic():
        live, new = _caught_up(projection)
        Build.objects.filter(pk=live.pk).update(role=OLD)
        Build.objects.filter(pk=new.pk).update(role=LIVE)
    _clear(Build.objects.filter(projection=projection.name, role=OLD))


def discard(name: str) -> None:
    """Give up the build that is under way."""
    Build.objects.filter(projection=name, role=BUILDING).update(role=OLD)
    _clear(Build.objects.filter(projection=name, role=OLD))


def stands(projection: Projection, role: str, why: str) -> None:
    """Say on the build why it can't go on; an empty ``why`` that it goes on."""
    Build.objects.filter(projection=projection.name, role=role).update(fault=why[:500])


def _begin(name: str, role: str) -> bool:
    last = Build.objects.filter(projection=name).aggregate(last=Max("generation"))["last"] or 0
    try:
        with transaction.atomic():
            Build.objects.create(
                projection=name, generation=last + 1, role=role, started_at=datetime.fromtimestamp(clock.wall(), UTC)
            )
    except IntegrityError:
        return False
    return True


def _locked(name: str, *, skip: bool = False) -> QuerySet[Build]:
    """In one order, so that two who want both builds don't wait for each other."""
    return Build.objects.select_for_update(skip_locked=skip).filter(projection=name).order_by("generation")


def _caught_up(projection: Projection) -> tuple[Build, Build]:
    """The live build and the new one, both locked, the new one not behind."""
    builds = {build.role: build for build in _locked(projection.name).exclude(role=OLD)}
    live, new = builds.get(LIVE), builds.get(BUILDING)
    if live is None or new is None:
        raise NotReady(f"No new build of {projection.name} is under way.")
    if live.position - new.position > CLOSE:
        raise NotReady(f"The build is {live.position - new.position:,} events behind; wait until it has caught up.")
    while new.position < live.position:
        _take(projection, new, BATCH, live.position)
    return live, new


def _take(projection: Projection, build: Build, limit: int, until: int | None = None) -> bool:
    """Fold the next events into ``build``, which is locked; whether it has moved."""
    reading = following(build.position, projection.types, limit, until)
    if reading.position == build.position:
        return False
    touched = [(event, list(dict.fromkeys(projection.keys(event)))) for event in map(_told, reading.events)]
    keys = {key for _, names in touched for key in names}
    if too_long := [key for key in keys if len(key) > MAX_KEY]:
        raise ValueError(f"A row's key has at most {MAX_KEY} characters, unlike {too_long[0][:50]!r}….")
    before = {row.key: row.state for row in build.rows.filter(key__in=keys)}
    after = dict(before)
    for event, names in touched:
        for key in names:
            after[key] = projection.apply(after.get(key), event)
    gone = [key for key in before if after[key] is None]
    BuildRow.objects.bulk_create(
        [BuildRow(build=build, key=key, state=state) for key, state in after.items() if state is not None],
        update_conflicts=True,
        unique_fields=["build", "key"],
        update_fields=["state"],
    )
    build.rows.filter(key__in=gone).delete()
    build.position, build.fault = reading.position, ""
    build.save(update_fields=["position", "fault"])
    return True


def _told(event: Event) -> CloudEvent:
    data = UPCASTERS.newest(event.type, event.schema_version, event.data)
    return replace(event.as_cloudevent(), data=data)


def _differing(live: Build, new: Build) -> Iterator[str]:
    for part in _chunks(new):
        known = dict(live.rows.filter(key__in=[key for key, _ in part]).values_list("key", "state"))
        yield from (key for key, state in part if key not in known or known[key] != state)
    for part in _chunks(live):
        known = set(new.rows.filter(key__in=[key for key, _ in part]).values_list("key", flat=True))
        yield from (key for key, _ in part if key not in known)


def _chunks(build: Build) -> Iterator[Sequence[tuple[str, Any]]]:
    last = 0
    while part := list(build.rows.filter(pk__gt=last).order_by("pk").values_list("pk", "key", "state")[:CHUNK]):
        last = part[-1][0]
        yield [(key, state) for _, key, state in part]


def _clear(builds: QuerySet[Build]) -> None:
    """Delete builds that nobody sees, a chunk at a time."""
    for build in builds:
        while some := list(build.rows.values_list("pk", flat=True)[:CHUNK]):
            BuildRow.objects.filter(pk__in=some).delete()
        build.delete()
