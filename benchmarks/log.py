"""One run of P6's long log: ``python -m benchmarks.log DATABASE_URL EVENTS`` prints milliseconds by question as JSON.

Fills the event table by one statement (eight types, the rarest twenty times; ten streams; the last year),
then asks what pages, the API and readers of the log ask.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

from missioncontrol.launch.layout import SECRETS

STREAMS = 10
RARE = 20
"""Events of the rare type, in a short log and a long one."""
ASKED = 9
YEAR_S = 365 * 86_400

FILL = """
INSERT INTO events_event ({names})
WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {events})
SELECT {values} FROM counted
"""


def fill(events: int) -> None:
    """``events`` rows with positions, and the heads of their streams."""
    from django.db import connection

    from apps.events.models import ALL, Event, Stream

    sqlite = connection.vendor == "sqlite"
    step = YEAR_S / events
    at = f"datetime('now', '-' || (({events} - n) * {step}) || ' seconds')" if sqlite else ""
    values = {
        "id": "n",
        "position": "n",
        "event_id": "'e-' || n",
        "type": f"CASE WHEN n % {events // RARE} = 0 THEN 'rare.thing.done' "
        "ELSE 'bench.kind' || (n % 7) || '.done' END",
        "source": "'bench'",
        "subject": "'s-' || (n % 10)",
        "time": at or f"now() - make_interval(secs => ({events} - n) * {step})",
        "datacontenttype": "'application/json'",
        "data": '\'{"amount": 12, "to": "ann"}\'' + ("" if sqlite else "::jsonb"),
        "extensions": "'{}'" + ("" if sqlite else "::jsonb"),
        "stream": f"'k/' || (n % {STREAMS})",
        "version": f"(n + {STREAMS} - 1) / {STREAMS}",
        "numbered": "TRUE",
        "schema_version": "0",
        "correlation_id": "'c-' || (n / 4)",
    }
    fields = [field.column for field in Event._meta.concrete_fields]
    values = {name: values.get(name, "''") for name in fields}
    with connection.cursor() as cursor:
        cursor.execute(FILL.format(names=", ".join(values), values=", ".join(values.values()), events=events))
        cursor.execute("ANALYZE")
    Stream.objects.update_or_create(pk=ALL, defaults={"version": events})


def questions(events: int) -> dict[str, Callable[[], Any]]:
    """By name."""
    from django.contrib.auth.models import User
    from rest_framework.test import APIClient

    from apps.events.queries import following, history, recent

    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("bench"))

    def rest(query: str) -> Callable[[], Any]:
        def ask() -> Any:
            answer = client.get(f"/api/v1/events?{query}")
            assert answer.status_code == 200, answer.content
            return answer.content

        return ask

    middle = events // 2
    return {
        "newest page": rest(""),
        "page of a common type": rest("type=bench.kind3.done"),
        "page of a pattern": rest("type=bench.%23"),
        "page of a rare type": rest("type=rare.%23"),
        "page of a stream": rest("stream=k/7"),
        "page of a subject": rest("subject=s-7"),
        "page of a correlation": rest(f"correlation_id=c-{middle // 4}"),
        "page from a position": rest(f"after={middle}"),
        "page from a position, of a pattern": rest(f"after={middle}&type=bench.%23"),
        "one event": lambda: client.get(f"/api/v1/events/e-{middle}").content,
        "following": lambda: following(middle),
        "following a pattern": lambda: following(middle, ["bench.*.done"]),
        "following a rare type": lambda: following(events - 900, ["rare.thing.done"]),
        "history of a stream": lambda: list(history("k/7")[:100]),
        "recent": lambda: recent(limit=50),
        "recent of a pattern": lambda: recent(["bench.#"], limit=50),
    }


def took(ask: Callable[[], Any]) -> float:
    """Milliseconds: the least of some, after one that doesn't count: the two logs are asked minutes apart, and whatever
    else the machine does only adds."""
    ask()
    times = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    return min(times) * 1e3


def main(url: str, count: str) -> None:
    """Run in a home of its own, and print."""
    events = int(count)
    with tempfile.TemporaryDirectory(prefix="mc-bench-") as folder:
        os.environ |= {"MC_HOME": folder, "REDIS_URL": "redis://127.0.0.1:1/0"}
        os.environ |= {"DJANGO_SETTINGS_MODULE": "missioncontrol.settings", "MC_ALLOWED_HOSTS": "*"}
        os.environ |= {name.upper(): secrets.token_hex(32) for name in SECRETS}
        Path(folder, "static").mkdir()
        if url != "sqlite":
            os.environ["DATABASE_URL"] = url
        django.setup()
        from django.conf import settings
        from django.core.management import call_command

        settings.ALLOWED_HOSTS = ["*"]
        call_command("migrate", verbosity=0)
        begun = time.perf_counter()
        fill(events)
        filled = time.perf_counter() - begun
        found = {name: took(ask) for name, ask in questions(events).items()}
        print(json.dumps({"filled_s": filled, "ms": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
