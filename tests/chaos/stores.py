"""What a chaos run keeps in databases, what its processes are told in files, and what its events are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.kit import env
from services.kit.broker import follow
from services.kit.events.signing import Ring
from services.kit.events.transport.routed import Routed
from services.kit.inbox import INBOX
from services.kit.outbox import OUTBOX
from services.kit.store import Migration, Tables
from tests import signed

GROUP = "chaos"
SECRETS = [*signed.SECRETS, (GROUP, "g" * 48)]
KEYS = Ring.of(SECRETS)
VARIABLE = " ".join(f"{source}={secret}" for source, secret in SECRETS)
"""The same as ``MC_BUS_KEYS``."""

RECORDED = Tables(
    "recorded",
    Migration("CREATE TABLE recorded (last INTEGER NOT NULL)", "INSERT INTO recorded (last) VALUES (0)"),
)
SEEN = Tables(
    "seen",
    Migration(
        # No key but its own: an effect that happened twice is to be seen twice.
        "CREATE TABLE seen (id {serial}, source TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL)"
    ),
)
OUTGOING = (OUTBOX, RECORDED)
INCOMING = (INBOX, SEEN)


async def bus(folder: Path, name: str) -> tuple[Routed, Any]:
    """The bus of the process ``name`` by the rules of routing, and whoever follows these."""
    transport = Routed(env.bus_urls(), env.bus_default())
    rules = follow(env.bus_urls(), folder / f"{name}-routes", transport.adopt)
    await rules.start()
    return transport, rules


def type_of(key: int, kinds: str) -> str:
    """What events of a key are called: by its broker, in turn."""
    names = kinds.split(",")
    return f"chaos.{names[key % len(names)]}.done"


def goal(folder: Path) -> int:
    """How many events are to be published by now."""
    return int((folder / "goal").read_text())


def set_goal(folder: Path, number: int) -> None:
    """Say so, at once for whoever reads meanwhile."""
    (folder / "goal.new").write_text(str(number))
    (folder / "goal.new").rename(folder / "goal")
