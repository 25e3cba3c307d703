"""What Celery beat schedules for the gateway's configuration."""

from __future__ import annotations

from celery import shared_task

from apps.gateway import actions


@shared_task(name="gateway.reconcile_config")
def reconcile_config() -> None:
    """Give Redis the newest revision again if it lost it, or was away when it was published."""
    actions.reconcile()
