"""Keys for tests that put events on a bus: what ``tests`` publishes is signed, and believed."""

from __future__ import annotations

from services.kit.events.signing import CONTROL, Ring

SECRETS = [("tests", "t" * 48), (CONTROL, "c" * 48)]
KEYS = Ring.of(SECRETS)
VARIABLE = " ".join(f"{source}={secret}" for source, secret in SECRETS)
"""The same as ``MC_BUS_KEYS``."""
