"""How the collector tells Mission Control's own reports from everybody else's.

Whoever is on this machine may send telemetry under any name, so a name proves nothing; what pages take for the truth
(what the gateway counted, what a process dropped) comes with this field. Standard library only.
"""

from __future__ import annotations

from typing import Final

FIELD: Final = "x-mission-control-proof"
"""Header field of an export: what ``missioncontrol.keys.telemetry`` makes of MC_WIRE_KEY."""


def ours(metric: str) -> bool:
    """Whether Mission Control alone may report under this name: ``mc.`` but for what the services' kit counts."""
    return metric.startswith("mc.") and not metric.startswith(("mc.bus.", "mc.outbox."))
