"""The embedded Redis's configuration: who may connect and what they may do. Pure: makes the text.

It is written to a file of mode 0600, so that nothing of it stands in a command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from missioncontrol.launch.settings import LOOPBACK
from services.kit.env import ENGINE_USER

RULES = (
    "~* &* +@all",
    # CONFIG, MODULE, DEBUG, ACL, SHUTDOWN, REPLICAOF, MONITOR …; then also KEYS, FLUSHALL, MIGRATE and RESTORE.
    "-@admin -@dangerous",
    # Counters alone; the task queue's client asks for them.
    "+info",
    # A script comes with whoever runs it; stored functions would outlive a restart, and nobody here has any.
    "-function -fcall -fcall_ro -script|flush -script|kill -script|debug",
)
"""What our own processes may do: work on data, and nothing that reaches the disk, other hosts or other clients."""


def configuration(
    folder: Path, port: int, password: str, *, durable: bool = True, rules: Sequence[str] = RULES, more: str = ""
) -> str:
    """The text of a configuration for loopback alone and for the one user with ``password``.

    ``durable``: every write in an append-only file, synced each second, and no snapshot beside it; else nothing is
    kept. ``more`` is whole lines that come last.
    """
    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = [
        f"port {port}",
        f"bind {LOOPBACK}",
        f"dir {_quoted(str(folder))}",
        f"appendonly {'yes' if durable else 'no'}",
        "appendfsync everysec",
        'save ""',
        "daemonize no",
        # A title would be written over the environment, by which the launcher's tests find what is left of a run.
        "set-proc-title no",
        "maxmemory 512mb",
        # Full is an error that the writer sees; evicting would lose events in silence.
        "maxmemory-policy noeviction",
        *(f"enable-{what} no" for what in ("protected-configs", "debug-command", "module-command")),
        "user default reset",
        f"user {ENGINE_USER} reset on #{digest} {' '.join(rules)}",
        more,
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return (
        '"'
        + "".join(f"\\x{byte:02x}" if byte in b'"\\' or not 32 <= byte < 127 else chr(byte) for byte in text.encode())
        + '"'
    )
