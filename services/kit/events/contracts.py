"""What a service promises of events that it publishes and needs of those that it consumes: schemas in files.

``schemas/publishes/<type>.<version>.json`` and ``schemas/consumes/<type>.<version>.json`` lie beside the service's
code. The second may ask for less than the publisher promises. Mission Control reads the same files into its registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .cloudevent import CloudEvent, EventError
from .retry import Permanent
from .schema import Schema, SchemaError, Violation, named, parse

PUBLISHES, CONSUMES = "publishes", "consumes"

C = TypeVar("C")
Versions = Mapping[str, Mapping[int, Schema]]


class Unfit(Permanent):
    """An event that lacks what its consumer needs."""


class Contracts:
    """The schemas of one service, compiled. Immutable."""

    def __init__(self, publishes: Iterable[Schema] = (), consumes: Iterable[Schema] = ()) -> None:
        self.publishes = list(publishes)
        self.consumes = list(consumes)
        self._publishes = _by_type(self.publishes)
        self._consumes = _by_type(one.for_reading() for one in self.consumes)

    def promised(self, type: str, data: Any) -> str:
        """The ``dataschema`` of an event that is to be published with ``data``: the newest version of its type, or
        nothing when the service has none. Violation when the data is not what it promises."""
        versions = self._publishes.get(type)
        if not versions:
            return ""
        newest = versions[max(versions)]
        newest.check(data)
        return newest.uri

    def check_consumed(self, event: CloudEvent) -> None:
        """Violation when ``event`` lacks what the service needs: by the version that the event names if that is here,
        else by the newest that is. Properties that the service does not know are passed over."""
        versions = self._consumes.get(event.type)
        if not versions:
            return
        found = named(event.dataschema)
        version = found[1] if found and found[0] == event.type and found[1] in versions else max(versions)
        versions[version].check(event.data)

    def guard(self, handler: Callable[[C, CloudEvent], None]) -> Callable[[C, CloudEvent], None]:
        """``handler`` for events that hold what the service needs; any other fails for good, with the place."""

        def checked(connection: C, event: CloudEvent) -> None:
            try:
                self.check_consumed(event)
            except Violation as violation:
                raise Unfit(str(violation)) from violation
            handler(connection, event)

        return checked


def read(folder: Path) -> Contracts:
    """The contracts in ``folder``, which may be missing; SchemaError naming the file that is wrong."""
    return Contracts(read_folder(folder / PUBLISHES), read_folder(folder / CONSUMES))


def read_folder(folder: Path) -> list[Schema]:
    """Every schema in ``folder``, by type and version; SchemaError naming the file that is wrong."""
    found = [read_file(path) for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(found, key=lambda one: (one.type, one.version))


def read_file(path: Path) -> Schema:
    """The schema that the file holds; its name says of which type and version. SchemaError, naming the file."""
    type, _, version = path.stem.rpartition(".")
    try:
        if not (version.isascii() and version.isdigit()) or version.startswith("0") or len(version) > 9:
            raise SchemaError("a file of a schema is called <type>.<version>.json")
        return parse(type, int(version), path.read_bytes())
    except (SchemaError, EventError) as error:
        raise SchemaError(f"{path.name}: {error}") from None


def _by_type(schemas: Iterable[Schema]) -> Versions:
    found: dict[str, dict[int, Schema]] = {}
    for schema in schemas:
        found.setdefault(schema.type, {})[schema.version] = schema
    return found


NOTHING = Contracts()
