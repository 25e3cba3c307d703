"""aegis's settings: the kit's, plus what its tokens say and where its keys and clients are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.kit import env
from services.kit.settings import Settings
from services.kit.settings import read as read_kit


@dataclass(frozen=True, slots=True, repr=False)
class AegisSettings(Settings):
    """``issuer`` is the ``iss`` of every token and the base of the public addresses."""

    issuer: str = ""
    audience: str = "mission-control"
    keys_file: Path = Path("aegis-keys.json")
    clients_file: Path = Path("aegis_clients.json")


def read() -> AegisSettings:
    """From the environment; see services.kit.settings."""
    kit = read_kit("aegis", 7101)
    values = {name: getattr(kit, name) for name in Settings.__slots__}
    return AegisSettings(
        **values,
        issuer=env.text("AEGIS_ISSUER", f"http://localhost:{env.port('MC_GATEWAY_PORT', 8080)}/aegis").rstrip("/"),
        audience=env.text("AEGIS_AUDIENCE", "mission-control"),
        keys_file=Path(env.text("AEGIS_KEYS_FILE", str(kit.folder / "aegis-keys.json"))),
        clients_file=Path(env.text("AEGIS_CLIENTS_FILE", str(kit.home / "secrets" / "aegis_clients.json"))),
    )
