"""What Celery beat schedules: retention of health's and breakers' histories."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task
from django.conf import settings

from apps.health.models import BreakerTransition, HealthTransition
from apps.lib import clock

DAY_S = 86_400.0
CHUNK = 5000
ROUNDS = 20
"""Chunks a run of retention deletes at most per table."""


@shared_task(name="health.prune")
def prune() -> None:
    """Forget transitions past their retention, in chunks that hold nobody up."""
    cut = datetime.fromtimestamp(clock.wall() - settings.HISTORY_DAYS * DAY_S, UTC)
    for table in (HealthTransition, BreakerTransition):
        for _ in range(ROUNDS):
            chosen = list(table.objects.filter(at__lt=cut).order_by("at").values_list("pk", flat=True)[:CHUNK])
            for start in range(0, len(chosen), 500):
                table.objects.filter(pk__in=chosen[start : start + 500]).delete()
            if len(chosen) < CHUNK:
                break
