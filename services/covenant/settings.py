"""covenant's settings: the kit's, and nothing more."""

from __future__ import annotations

from services.kit.settings import Settings
from services.kit.settings import read as read_kit


def read() -> Settings:
    """From the environment; see services.kit.settings."""
    return read_kit("covenant", 7102)
