"""``manage.py events``: the event bus from a terminal. Each room of apps/events brings its own subcommands."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from apps.events import tail
from apps.events.intake import command as intake
from apps.events.letters import command as letters
from missioncontrol import repair
from services.kit.events.cloudevent import EventError
from services.kit.events.patterns import PatternError
from services.kit.problem import Refused

WRONG = 2


class Command(BaseCommand):
    """See the module. What can't be done is said in a sentence, and the exit code is 2."""

    help = "Follow the log and publish to it, redrive dead letters, replay the log, and repair it."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        for room in (tail, intake, letters, repair):
            room.add(commands)

    def handle(self, *args: Any, **options: Any) -> None:
        said = Namespace(**options)
        try:
            said.handle(said, self.stdout)
            self.stdout.flush()
        except (letters.Wrong, EventError, PatternError, tail.Wrong) as wrong:
            raise CommandError(str(wrong), returncode=WRONG) from None
        except Refused as refused:
            raise CommandError(refused.problem.detail, returncode=WRONG) from None
        except DatabaseError as error:
            raise CommandError(f"The database can't be asked: {error}", returncode=WRONG) from None
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            # Whoever read has enough. What is still in the buffer must not fail at the interpreter's end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
