"""Telemetry of the processes that run Django: the kit's, as Django's settings say, with the proof that it is ours."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings

from missioncontrol import keys
from services.kit import env, proof, telemetry


def start(service: str) -> Callable[[], None]:
    """Report as ``service``; returns what flushes and stops it. Once per process, after any fork."""
    return telemetry.start(
        service,
        endpoint=settings.OTLP_URL,
        headers=env.otlp_headers(settings.OTLP_URL) | {proof.FIELD: keys.telemetry()},
        version=settings.VERSION,
    )
