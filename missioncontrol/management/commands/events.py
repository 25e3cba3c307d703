"""``manage.py events``: the event bus from a terminal. Each room of apps/events brings its own subcommands."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.events.letters import command as letters


class Command(BaseCommand):
    help = "Redrive dead letters, and replay the log."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        letters.add(commands)

    def handle(self, *args: Any, **options: Any) -> None:
        said = Namespace(**options)
        try:
            said.handle(said, self.stdout)
        except letters.Wrong as wrong:
            raise CommandError(str(wrong)) from None
