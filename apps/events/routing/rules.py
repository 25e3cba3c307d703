"""What a rule must be to be published here."""

from __future__ import annotations

from django.conf import settings

from services.kit.env import BROKERS
from services.kit.events import patterns
from services.kit.events.routing import DEFAULT


def faults(pattern: str, broker: str) -> dict[str, str]:
    """What is wrong, by field; nothing for a rule that can be followed."""
    found: dict[str, str] = {}
    try:
        patterns.segments(pattern)
    except patterns.PatternError as error:
        found["pattern"] = str(error)
    if broker != DEFAULT and broker not in settings.BUS_URLS:
        known = ", ".join((DEFAULT, *settings.BUS_URLS))
        variable = BROKERS.get(broker)
        why = f"{variable} is not set here" if variable else "there is no such broker"
        found["broker"] = f"Nothing can go to {broker}: {why}. Known are {known}."
    return found
