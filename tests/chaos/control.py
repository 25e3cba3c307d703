"""Whoever publishes in Mission Control itself, by ``publish()``, in a process of its own, to be killed.

``python -m tests.chaos.control FOLDER KINDS KEYS EVERY``: as long as ``FOLDER/goal`` says more than the log has, it
publishes the next events, 20 in a transaction, each by an idempotency key: who was killed asks again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import django
from django.db import DatabaseError, close_old_connections

from tests.chaos.stores import goal, type_of

AT_ONCE = 20


def main(folder: Path, kinds: str, keys: int, every: int) -> None:
    """Publish until SIGTERM."""
    # After set-up: models can't be imported before.
    from apps.events.actions import publish_all
    from apps.events.models import Event
    from apps.events.storing import Draft

    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    last = -1
    while not stopped:
        try:
            close_old_connections()
            if last < 0:
                last = Event.objects.filter(type__startswith="chaos.", source="mission-control").count()
            numbers = range(last, min(last + AT_ONCE, goal(folder)))
            drafts = [
                Draft(
                    type_of(number % keys, kinds),
                    {"n": number, "poison": number % every == every // 2},
                    stream=f"c/{number % keys}",
                )
                for number in numbers
            ]
            if drafts:
                publish_all(drafts, idempotency_key=f"chaos {last}")
            last += len(drafts)
            if len(drafts) < AT_ONCE:
                time.sleep(0.2)
        except DatabaseError as error:
            print(f"the database does not answer: {error!r}", flush=True)
            last = -1
            time.sleep(0.2)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")
    django.setup()
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
