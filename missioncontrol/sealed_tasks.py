"""Kombu's serializer for tasks that only the control plane can have sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from apps.lib import clock
from services.kit.seal import Refused, Seal

PURPOSE = "celery"
CONTENT_TYPE = "application/x-mc-sealed"
OLDEST_S = 7200.0
"""The hourly tasks expire in the queue after an hour; what is older is said again by a stranger."""


def sealed(seal: Callable[[], Seal]) -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """How a task's body is written and read; ``seal`` is asked for once, at the first task."""
    key = lru_cache(maxsize=1)(seal)

    def write(body: Any) -> str:
        return key().close(PURPOSE, json.dumps(body).encode(), clock.wall()).decode()

    def read(data: str | bytes) -> Any:
        found = key().open(PURPOSE, data)
        if abs(clock.wall() - found.at) > OLDEST_S:
            raise Refused("too old")
        return json.loads(found.body)

    return write, read
