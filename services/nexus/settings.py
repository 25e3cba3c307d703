"""nexus's settings: the kit's, plus the API key with which it calls others through the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.kit.settings import Settings, secret
from services.kit.settings import read as read_kit


@dataclass(frozen=True, slots=True, repr=False)
class NexusSettings(Settings):
    """``model_folder`` is where the trained model is kept between starts."""

    api_key: str = ""
    model_folder: Path = Path()


def read() -> NexusSettings:
    """From the environment; see services.kit.settings."""
    kit = read_kit("nexus", 7103)
    values = {name: getattr(kit, name) for name in Settings.__slots__}
    return NexusSettings(**values, api_key=secret("NEXUS_API_KEY"), model_folder=kit.folder)
