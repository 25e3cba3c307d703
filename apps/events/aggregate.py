"""An aggregate in a few lines: one pure function decides on a command by the state, another folds the state of events.

    state = evolve(evolve(initial, fact), fact) …        facts = decide(state, command)

This file joins the two to the log: it loads a stream, publishes at the version it has seen, decides again when somebody
was faster, and keeps a snapshot now and then. docs/events.md has a worked example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, TypeVar

import msgspec
from django.db import transaction

from apps.events.actions import VersionConflict, publish_all
from apps.events.models import Event, Snapshot, Stream
from apps.events.queries import history
from apps.events.storing import Draft
from apps.events.upcast import UPCASTERS
from apps.lib.aio import in_thread

S = TypeVar("S")
C = TypeVar("C")

TRIES = 5
"""How often a command is decided on before somebody else's being faster is the caller's to deal with."""


class HistoryGone(Exception):
    """A state can't be told from what is left of its events."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What happened, before or after it is an event. ``schema_version`` 0 is the newest that is registered."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    schema_version: int = 0


@dataclass(frozen=True, slots=True)
class Aggregate(Generic[S, C]):
    """How one kind of thing behaves. Its streams are called ``name/id``.

    ``decide`` answers with the facts that a command leads to (none is fine) or raises to refuse it; ``evolve``
    answers with the state after a fact, in the words of its newest schema version. Both are pure, and neither changes
    what it is given. With ``snapshot_every`` the state is kept about each so many events; it must then be of a type
    that msgspec can write as JSON and read back, and ``shape`` counts up whenever its meaning changes.
    """

    name: str
    initial: S
    decide: Callable[[S, C], Sequence[Fact]]
    evolve: Callable[[S, Fact], S]
    snapshot_every: int = 0
    shape: int = 1

    def stream(self, key: str) -> str:
        """Where the thing called ``key`` has its history."""
        return f"{self.name}/{key}"

    def fold(self, state: S, facts: Iterable[Fact]) -> S:
        """``state`` after ``facts``."""
        return reduce(self.evolve, facts, state)


KNOWN: dict[str, Aggregate[Any, Any]] = {}
"""Aggregates by name that pages can show the state of, at any version."""


def know(aggregate: Aggregate[S, C]) -> Aggregate[S, C]:
    """Have pages show the state of ``aggregate``; returns it. ValueError for a name that another one has."""
    if KNOWN.setdefault(aggregate.name, aggregate) is not aggregate:
        raise ValueError(f"There is another aggregate {aggregate.name!r} already.")
    return aggregate


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A state, the version of the stream that it is of, and the events that led there just now."""

    state: S
    version: int
    events: tuple[Event, ...] = ()


def load(aggregate: Aggregate[S, C], key: str, until: int | None = None) -> Loaded[S]:
    """The state of ``key`` now, or as it was at version ``until``: a snapshot, if one serves, and what followed it.

    HistoryGone when events of it are missing.
    """
    stream = aggregate.stream(key)
    state, version = aggregate.initial, 0
    kept = Snapshot.objects.filter(stream=stream, shape=aggregate.shape).first() if aggregate.snapshot_every else None
    if kept is not None and (until is None or kept.version <= until):
        state, version = msgspec.convert(kept.state, type(aggregate.initial)), kept.version
    for event in history(stream, version, until).iterator(chunk_size=500):
        if event.version != version + 1:
            raise HistoryGone(f"Stream {stream!r} has no event {version + 1} any more.")
        state, version = aggregate.evolve(state, fact_of(event)), event.version
    return Loaded(state, version)


def execute(aggregate: Aggregate[S, C], key: str, command: C, *, causation_id: str = "") -> Loaded[S]:
    """Decide on ``command`` and publish what comes of it, in the caller's transaction or one of its own.

    Whatever ``decide`` raises goes to the caller. When somebody else publishes first it is decided again on what is
    then there; VersionConflict after five times.
    """
    for tries in range(1, TRIES + 1):
        before = load(aggregate, key)
        facts = aggregate.decide(before.state, command)
        state = aggregate.fold(before.state, facts)
        try:
            with transaction.atomic():
                drafts = [_draft(aggregate.stream(key), fact, causation_id) for fact in facts]
                events = publish_all(drafts, expected_version=before.version)
                if events and not before.version:
                    # Retention forgets messages. This is memory.
                    Stream.objects.filter(pk=aggregate.stream(key)).update(kept=True)
                after = Loaded(state, before.version + len(events), tuple(events))
                if _is_due(aggregate.snapshot_every, before.version, after.version):
                    _keep(aggregate, key, after)
                return after
        except VersionConflict:
            if tries == TRIES:
                raise
    raise AssertionError("unreachable")


async def aexecute(aggregate: Aggregate[S, C], key: str, command: C, *, causation_id: str = "") -> Loaded[S]:
    """``execute`` for asynchronous code: one hop to the thread of the database."""
    return await in_thread(execute, aggregate, key, command, causation_id=causation_id)


def fact_of(event: Event) -> Fact:
    """What ``event`` tells, in today's words."""
    return Fact(event.type, UPCASTERS.newest(event.type, event.schema_version, event.data))


def _draft(stream: str, fact: Fact, causation_id: str) -> Draft:
    return Draft(
        fact.type,
        fact.data,
        subject=stream,
        stream=stream,
        causation_id=causation_id,
        tags=fact.tags,
        schema_version=fact.schema_version,
    )


def _is_due(every: int, before: int, after: int) -> bool:
    return every > 0 and before // every < after // every


def _keep(aggregate: Aggregate[S, C], key: str, loaded: Loaded[S]) -> None:
    """The stream's row is locked now, so an older snapshot can't come after a newer one."""
    Snapshot.objects.update_or_create(
        stream=aggregate.stream(key),
        defaults={
            "version": loaded.version,
            "shape": aggregate.shape,
            "state": msgspec.to_builtins(loaded.state),
        },
    )
