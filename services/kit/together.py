"""When to report, so that many processes do it at about one moment: a store then takes what all say in one write.

Pure, of the standard library alone: gateways, which load no OpenTelemetry SDK, go by it too.
"""

from __future__ import annotations

from typing import Final

SPREAD_S: Final = 0.5
"""Over which a moment is spread, so that a large fleet does not meet at the collector's door; it waits for company
for longer than that."""
JUST_NOW: Final = 0.1
"""The share of an interval by which a moment counts as the one before: clocks are set, and waits end early."""


def seconds_until(now: float, every_s: float, place: float) -> float:
    """Until the next multiple of ``every_s`` on the wall clock ``now``. ``place``: this process's, from 0 to 1."""
    left = every_s - (now - place * SPREAD_S) % every_s
    return left if left > JUST_NOW * every_s else left + every_s
