"""An operator's word about everything that is parked, in a process of its own: ``python -m tests.chaos.operator FILE``.

``FILE`` holds the events, by source and id; the word is a command that Mission Control publishes like any other event.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import django

from services.kit.events.reporting import MOST_NAMED, REDRIVE
from tests.chaos.stores import GROUP


def main(file: Path) -> None:
    """Ask for them all."""
    # After set-up: models can't be imported before.
    from apps.events.actions import publish_all
    from apps.events.storing import Draft

    events = json.loads(file.read_text())
    parts = [events[start : start + MOST_NAMED] for start in range(0, len(events), MOST_NAMED)]
    publish_all([Draft(REDRIVE, {"group": GROUP, "events": part}, stream=GROUP) for part in parts])


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")
    django.setup()
    main(Path(sys.argv[1]))
