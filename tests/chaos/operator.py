"""What an operator does in a chaos run, in a process of its own.

``python -m tests.chaos.operator rules KINDS`` sends the events of each broker there by a rule; ``… redrive FILE`` asks
for all events that ``FILE`` holds by source and id, by a command that Mission Control publishes like any other event.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import django

from services.kit.events.reporting import MOST_NAMED, REDRIVE
from tests.chaos.stores import GROUP


def rules(kinds: list[str]) -> None:
    """A rule for each broker."""
    # After set-up: models can't be imported before.
    from django.db import transaction

    from apps.events.routing.actions import publish
    from apps.events.routing.models import RoutingRule

    with transaction.atomic():
        for kind in kinds:
            RoutingRule.objects.update_or_create(name=kind, defaults={"pattern": f"chaos.{kind}.#", "broker": kind})
        publish("chaos")


def redrive(file: Path) -> None:
    """Ask for them all."""
    from apps.events.actions import publish_all
    from apps.events.storing import Draft

    events = json.loads(file.read_text())
    parts = [events[start : start + MOST_NAMED] for start in range(0, len(events), MOST_NAMED)]
    publish_all([Draft(REDRIVE, {"group": GROUP, "events": part}, stream=GROUP) for part in parts])


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")
    django.setup()
    if sys.argv[1] == "rules":
        rules(sys.argv[2].split(","))
    else:
        redrive(Path(sys.argv[2]))
