"""What the processes of a chaos run keep in their databases, and what they are told in files."""

from __future__ import annotations

from pathlib import Path

from services.kit.events.signing import Ring
from services.kit.inbox import INBOX, PARKED
from services.kit.outbox import OUTBOX, SENT
from services.kit.parked import REPORTED
from services.kit.store import Migration
from tests import signed

GROUP = "chaos"
SECRETS = [*signed.SECRETS, (GROUP, "g" * 48)]
KEYS = Ring.of(SECRETS)
VARIABLE = " ".join(f"{source}={secret}" for source, secret in SECRETS)
"""The same as ``MC_BUS_KEYS``."""

RECORDED = Migration(
    ("CREATE TABLE recorded (last INTEGER NOT NULL)", "INSERT INTO recorded (last) VALUES (0)"),
)
SEEN = Migration(
    (
        # No key but its own: an effect that happened twice is to be seen twice.
        "CREATE TABLE seen (id {serial}, source TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL)",
    )
)
OUTGOING = (OUTBOX, SENT, RECORDED)
INCOMING = (INBOX, PARKED, REPORTED, SEEN)


def goal(folder: Path) -> int:
    """How many events are to be published by now."""
    return int((folder / "goal").read_text())


def set_goal(folder: Path, number: int) -> None:
    """Say so, at once for whoever reads meanwhile."""
    (folder / "goal.new").write_text(str(number))
    (folder / "goal.new").rename(folder / "goal")
