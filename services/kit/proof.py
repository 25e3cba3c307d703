"""How a collector knows whose report it gets: a field that only who has the key can make. Standard library only."""

from __future__ import annotations

import hmac
from typing import Final

FIELD: Final = "x-mission-control-proof"
"""Header field of an OTLP export. It opens nothing else: a stranger who listens at the collector's port gets no key."""


def of(key: str) -> str:
    """What an export carries; it does not give its key away."""
    return hmac.new(key.encode(), b"mission-control telemetry", "sha256").hexdigest()
