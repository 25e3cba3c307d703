"""Writes of health checks: what has to be said once one is committed."""

from __future__ import annotations

from django.db import transaction

from apps.events.nudges import nudge
from apps.lib.wire import CHECKS_CHANNEL


def checks_changed() -> None:
    """Let the monitor look at its checks as soon as the caller's transaction is committed."""
    transaction.on_commit(lambda: nudge(CHECKS_CHANNEL))
