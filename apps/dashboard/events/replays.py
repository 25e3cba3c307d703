"""What the dialog of a replay offers: into whom, by whom, and with which part of the log it begins."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest

from apps.events.subscriptions.models import Subscription
from apps.lib import roles

MOST = 500
"""Subscriptions to choose from."""


def offer(request: HttpRequest, into: str = "", **part: Any) -> dict[str, Any]:
    """What templates/events/replay.html needs; ``part`` are filters of ``POST /api/v1/events/jobs/replay``.

    A service's consumer is not among those to choose from: it reads its broker itself.
    """
    rows = Subscription.objects.exclude(kind=Subscription.Kind.CONSUMER).order_by("name")
    found, may_make = list(rows.values_list("name", "kind")[:MOST]), roles.has(request.user, roles.ADMIN)
    return {
        "may_replay": bool(found or may_make) and roles.has(request.user, roles.OPERATOR),
        "may_make": may_make,
        "replay_into": found,
        "replay_to": into,
        "replay_part": json.dumps({name: value for name, value in part.items() if value}),
    }
