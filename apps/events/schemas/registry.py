"""The registry of schemas: new versions, held to the mode of their type, and what files bring at a start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from apps.events.schemas.compat import Break, Mode, Reader, Verdict, judge
from apps.events.schemas.models import EventType, SchemaReader, SchemaVersion
from apps.events.subscriptions import queries as subscriptions
from services.kit.events.contracts import Contracts
from services.kit.events.schema import Schema, SchemaError, schema
from services.kit.problem import Problem

MOST_VERSIONS = 200
"""Versions of one type: each new one is compared with all of them."""
MOST_PRODUCERS = 50
KIT = "kit"
"""Whose files tell of what every consumer publishes: it is nobody's name."""
FILES = "files"
"""The author of what a start found in files."""


class Refused(Exception):
    """A change of the registry that is not made; nothing has changed."""

    def problem(self) -> Problem:
        """The refusal for an edge."""
        return Problem(409, "schema_refused", str(self))


class Incompatible(Refused):
    """The new version would break somebody."""

    def __init__(self, type: str, version: int, verdict: Verdict) -> None:
        self.verdict = verdict
        first = next(iter(verdict.breaks or (one for found in verdict.broken.values() for one in found)))
        whom = f" It would break {', '.join(sorted(verdict.broken))}." if verdict.broken else ""
        super().__init__(
            f"Version {version} of {type} is not {verdict.mode.replace('_', ' ')} compatible: "
            f"what {first.writer} allows, {first.reader} may not read, at {first.path or 'the root'}: "
            f"{first.says}.{whom}"
        )

    def problem(self) -> Problem:
        return Problem(409, "schema_incompatible", str(self), extra={"verdict": described(self.verdict)})


@dataclass(frozen=True, slots=True)
class Registered:
    """What came of a registration."""

    type: str
    version: int
    verdict: Verdict
    new: bool
    """False when the newest version says the same already, or on a dry run."""


def described(verdict: Verdict) -> dict[str, Any]:
    """A verdict for REST and problem documents."""
    return {
        "compatible": verdict.compatible,
        "mode": verdict.mode.value,
        "breaks": [_described(one) for one in verdict.breaks],
        "consumers": [
            {"name": name, "breaks": [_described(one) for one in verdict.broken.get(name, ())]}
            for name in verdict.readers
        ],
    }


def _described(one: Break) -> dict[str, Any]:
    return {
        "rule": one.rule,
        "path": one.path,
        "detail": one.says,
        "certain": one.shown,
        "reader": one.reader,
        "writer": one.writer,
    }


def readers(type: str) -> list[Reader]:
    """Who is known to consume events of ``type``, and what each needs of them: the one place to ask."""
    rows = SchemaReader.objects.filter(event_type=type).order_by("consumer")
    known = [Reader(row.consumer, row.needs) for row in rows]
    named = {one.name for one in known}
    return known + [Reader(name) for name in subscriptions.readers([type])[type] if name not in named]


def register(
    type: str,
    document: Any,
    *,
    author: str,
    reason: str = "",
    producer: str = "",
    force: bool = False,
    dry: bool = False,
) -> Registered:
    """Make ``document`` the next version of the schema of ``type``, which begins with it if it has none.

    The same document as the newest version is that version. SchemaError for what is no schema, EventError for an odd
    type; Incompatible unless it keeps to the type's mode or is ``force``\\ d. ``dry``: only say what would come of it.
    """
    with transaction.atomic():
        row = EventType.objects.select_for_update().filter(name=type).first() or EventType(name=type)
        found = schema(type, row.newest + 1, document)
        if row.newest and found.digest == row.digest:
            return Registered(type, row.newest, Verdict(Mode(row.mode)), new=False)
        verdict = judge(found, _versions(row), Mode(row.mode), readers(type))
        if dry:
            return Registered(type, found.version, verdict, new=False)
        if not verdict.compatible and not force:
            raise Incompatible(type, found.version, verdict)
        if row.newest >= MOST_VERSIONS:
            raise Refused(f"{type} has {MOST_VERSIONS} versions, which is the most: give the event a new type.")
        _append(row, found, author, reason, forced=not verdict.compatible, producer=producer)
    return Registered(type, found.version, verdict, new=True)


def set_mode(type: str, mode: Mode) -> EventType:
    """What new versions of ``type`` must keep to from now on. EventType.DoesNotExist for a type without a schema."""
    with transaction.atomic():
        row = EventType.objects.select_for_update().get(name=type)
        row.mode = mode.value
        row.save(update_fields=["mode"])
    return row


def load(contracts: Iterable[tuple[str, Contracts]]) -> list[str]:
    """Bring what services keep in files into the registry; what changed, a sentence each. Harmless to repeat.

    Readers first, so that a publisher's new version is held to what they need now. Refused, and nothing is changed,
    when a file says something else than the registered version of its number, leaves out a number, or breaks somebody.
    """
    named = list(contracts)
    said: list[str] = []
    with transaction.atomic():
        for service, contract in named:
            said += _load_needs(service, contract.consumes)
        for service, contract in named:
            for found in contract.publishes:
                said += _load_version(service, found)
    return said


def _load_needs(service: str, needs: list[Schema]) -> list[str]:
    newest = {one.type: one for one in needs}
    gone = SchemaReader.objects.filter(consumer=service).exclude(event_type__in=newest).delete()[0]
    said = [f"{service} no longer reads {gone} of its types"] if gone else []
    for found in newest.values():
        row = SchemaReader.objects.filter(consumer=service, event_type=found.type).first()
        if row is None or row.needs != found.document:
            SchemaReader.objects.update_or_create(
                consumer=service, event_type=found.type, defaults={"needs": found.document}
            )
            said.append(f"{service} reads {found.type}")
    return said


def _load_version(service: str, found: Schema) -> list[str]:
    row = EventType.objects.select_for_update().filter(name=found.type).first() or EventType(name=found.type)
    if found.version <= row.newest:
        there = SchemaVersion.objects.get(event_type=row, version=found.version)
        if there.digest != found.digest:
            raise Refused(
                f"Version {found.version} of {found.type} is registered with digest {there.digest[:12]}, and the file "
                f"of {service} has {found.digest[:12]}: a version never changes; make the next one."
            )
        makers = _joined(row.producers, service)
        if makers != row.producers:
            row.producers = makers
            row.save(update_fields=["producers"])
            return [f"{', '.join(makers) or 'whoever consumes'} publishes {found.type}"]
        return []
    if found.version != row.newest + 1:
        raise Refused(
            f"{service} has version {found.version} of {found.type}, and version {row.newest + 1} is missing."
        )
    verdict = judge(found, _versions(row), Mode(row.mode), readers(found.type))
    if not verdict.compatible:
        raise Incompatible(found.type, found.version, verdict)
    _append(row, found, FILES, f"a file of {service}", forced=False, producer=service)
    return [f"version {found.version} of {found.type} registered"]


def _append(row: EventType, found: Schema, author: str, reason: str, *, forced: bool, producer: str) -> None:
    row.newest, row.digest = found.version, found.digest
    row.producers = _joined(row.producers, producer)
    row.save()
    SchemaVersion.objects.create(
        event_type=row,
        version=found.version,
        document=found.document,
        digest=found.digest,
        author=author[:150],
        reason=reason[:300],
        forced=forced,
    )


def _joined(names: list[str], name: str) -> list[str]:
    return sorted({*names, name} - {"", KIT})[:MOST_PRODUCERS]


def _versions(row: EventType) -> list[Schema]:
    """The type's versions, oldest first; what an earlier release took with other bounds is passed over."""
    found = []
    for version, document in row.versions.order_by("version").values_list("version", "document") if row.pk else ():
        try:
            found.append(schema(row.name, version, document))
        except SchemaError:
            continue
    return found
