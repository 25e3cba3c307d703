"""mint's settings: the kit's, and where the ledger is, whose events it follows."""

from __future__ import annotations

from dataclasses import dataclass

from services.kit import env
from services.kit.settings import Settings
from services.kit.settings import read as read_kit


@dataclass(frozen=True, slots=True, repr=False)
class MintSettings(Settings):
    """``ledger_url``: where covenant answers when it is asked for what the bus lost."""

    ledger_url: str = ""


def read() -> MintSettings:
    """From the environment; see services.kit.settings."""
    kit = read_kit("mint", 7104)
    values = {name: getattr(kit, name) for name in Settings.__slots__}
    ledger = f"http://127.0.0.1:{env.port('MC_COVENANT_PORT', 7102)}"
    return MintSettings(**values, ledger_url=env.text("MC_COVENANT_URL", ledger).rstrip("/"))
