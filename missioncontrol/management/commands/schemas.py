"""``manage.py schemas``: bring the schemas that services keep in files into the registry; harmless to run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.events.schemas import registry
from services.kit.env import ROOT
from services.kit.events.contracts import Contracts, read
from services.kit.events.schema import SchemaError

OURS = "mission-control"
"""Who publishes what the apps do."""


class Command(BaseCommand):
    help = "Register the schemas in files: ours, and those of each FOLDER, a service's or one that holds services'."
    # The launcher checks the system once; here it would cost a third of a second.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        told = "has schemas/publishes or schemas/consumes, or holds folders that do"
        parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=told)

    def handle(self, *args: Any, folders: list[Path], **options: Any) -> None:
        try:
            theirs = [one for folder in folders for one in given(folder)]
            said = registry.load([*found(ROOT / "services"), (OURS, ours()), *theirs])
        except (SchemaError, registry.Refused) as error:
            raise CommandError(f"schemas: {error}") from None
        for line in said:
            self.stdout.write(f"schemas: {line}")


def found(folder: Path) -> Iterator[tuple[str, Contracts]]:
    """Each service below ``folder`` that has schemas, by its name."""
    for path in sorted(folder.glob("*/schemas")):
        yield path.parent.name, read(path)


def given(folder: Path) -> list[tuple[str, Contracts]]:
    """What was named by hand: a service's folder, or one that has some below it. CommandError when it is neither."""
    folder = folder.resolve()
    here = [(folder.name, read(folder / "schemas"))] if (folder / "schemas").is_dir() else []
    services = here or list(found(folder))
    if not any(contracts.publishes or contracts.consumes for _, contracts in services):
        raise CommandError(
            f"schemas: there are none in {folder}. A file is <service>/schemas/publishes/<type>.<version>.json, or "
            "consumes instead of publishes; name the service's folder, or the one above it."
        )
    return services


def ours() -> Contracts:
    """What Mission Control itself publishes and consumes."""
    parts = [read(path) for path in sorted((ROOT / "apps").glob("*/schemas"))]
    return Contracts(
        [one for part in parts for one in part.publishes], [one for part in parts for one in part.consumes]
    )
