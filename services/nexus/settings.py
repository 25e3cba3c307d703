"""nexus's settings: the kit's, plus the API key with which it calls others through the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from services.kit import env
from services.kit.money import parse_amount
from services.kit.settings import Settings
from services.kit.settings import read as read_kit


@dataclass(frozen=True, slots=True, repr=False)
class NexusSettings(Settings):
    """``most``: minor units that one sentence may move."""

    api_key: str = ""
    most: int = 0


def read() -> NexusSettings:
    """From the environment; see services.kit.settings."""
    kit = read_kit("nexus", 7103)
    values = {name: getattr(kit, name) for name in Settings.__slots__}
    try:
        most = parse_amount(env.text("NEXUS_MOST", "100000"))
    except ValueError as error:
        raise env.EnvError(f"NEXUS_MOST: {error}") from None
    return NexusSettings(**values, api_key=env.secret("NEXUS_API_KEY"), most=most)
