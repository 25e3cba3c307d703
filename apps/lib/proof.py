"""Whose reports the collector believes.

Whoever is on this machine may send telemetry under any name, so a name proves nothing; what pages take for the truth
(what the gateway counted, how far a consumer is, what a process dropped) comes with a proof. Standard library only.
"""

from __future__ import annotations

from enum import IntEnum


class Sender(IntEnum):
    """Who sent an export, as far as it is proven; who comes later may say what those before may."""

    ANYONE = 0
    FLEET = 1
    """A process with the fleet token. All of the fleet are believed alike: none is kept from speaking for another."""
    OURS = 2
    """One of Mission Control's own processes."""


def needed(metric: str) -> Sender:
    """Who at least must report under this name: ``mc.`` is Mission Control's, but for what the services' kit counts."""
    if not metric.startswith("mc."):
        return Sender.ANYONE
    return Sender.FLEET if metric.startswith(("mc.bus.", "mc.outbox.")) else Sender.OURS
