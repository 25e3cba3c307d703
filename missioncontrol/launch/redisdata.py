"""What is in the embedded Redis's folder, and may this server start on it?

A server that meets files which a newer or another one wrote either ends, or overlooks them and starts empty
without a word. Neither may happen to somebody's events, so the folder is looked at first. Reads headers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from missioncontrol.launch.engines import Server

MARK = "served-by"
"""The file that names the server which last ran here: new commands in a log have no header to tell of them."""
LAST_COMMON = (7, 2)
"""The last Redis whose files Valkey reads."""
AUX = 0xFA
"""The RDB format's opcode before a pair of strings that describe the file; they come first."""


def objection(folder: Path, server: Server) -> str | None:
    """Why ``server`` must not start on ``folder``, in a sentence without its end; None when it may."""
    for writer in (_marked(folder), *map(_writer, _snapshots(folder))):
        if writer is not None and not _reads(server, writer):
            return f"{folder} was written by {writer}, and this is {server}, which can't be trusted to read it"
    if stray := _overlooked(folder):
        return f"{stray} holds data that {server} would overlook, for it keeps an append-only file and finds none"
    return None


def mark(folder: Path, server: Server) -> None:
    """Remember that ``server`` runs here; before it does."""
    aside = folder / f".{MARK}"
    aside.write_text(f"{server.kind} {'.'.join(map(str, server.version))}\n")
    aside.replace(folder / MARK)


def _reads(server: Server, writer: Server) -> bool:
    if server.kind == writer.kind:
        return writer.version[:2] <= server.version[:2]
    return server.kind == "valkey" and writer.version[:2] <= LAST_COMMON


def _marked(folder: Path) -> Server | None:
    try:
        kind, _, version = (folder / MARK).read_text().strip().partition(" ")
        return Server("", kind, tuple(int(part) for part in version.split(".")))
    except (OSError, ValueError):
        return None


def _snapshots(folder: Path) -> Iterator[Path]:
    """Every file that may begin with a snapshot, also the append-only file of old."""
    yield from (folder / "dump.rdb", folder / "appendonly.aof")
    yield from sorted((folder / "appendonlydir").glob("*.base.rdb"))


def _overlooked(folder: Path) -> Path | None:
    kept = folder / "appendonlydir"
    if (folder / "appendonly.aof").exists() or any(kept.glob("*.manifest")):
        return None
    files = [folder / "dump.rdb", *kept.glob("*.aof"), *kept.glob("*.rdb")]
    return next((path for path in files if path.exists() and path.stat().st_size), None)


def _writer(path: Path) -> Server | None:
    """Who wrote the snapshot, by its own word; None when the file is none or says nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if not head.startswith((b"REDIS", b"VALKEY")):
        return None
    at = 9  # the magic and the format's version
    try:
        while head[at] == AUX:
            name, at = _string(head, at + 1)
            value, at = _string(head, at)
            if name in {"redis-ver", "valkey-ver"}:
                return Server("", name.removesuffix("-ver"), tuple(int(part) for part in value.split(".")))
    except (IndexError, ValueError):
        pass
    return None


def _string(data: bytes, at: int) -> tuple[str, int]:
    """A string of the RDB format: its length first, or a small integer in its place."""
    kind, low = data[at] >> 6, data[at] & 0x3F
    if kind == 0:
        size, at = low, at + 1
    elif kind == 1:
        size, at = low << 8 | data[at + 1], at + 2
    elif kind == 3 and low < 3:
        size = 1 << low
        return str(int.from_bytes(data[at + 1 : at + 1 + size], "little")), at + 1 + size
    else:
        raise ValueError("a string too long to describe a file")
    return data[at : at + size].decode("latin-1"), at + size
