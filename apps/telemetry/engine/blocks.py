"""Forget, before the engine opens its data, the blocks that it noted as stored and did not keep.

A table that recognises repeated inserts notes a block in its ``deduplication_logs`` just before it moves the block's
part into place (MergeTreeSink). A kill between the two leaves a note without rows: the insert, sent again as it
must be, would be acknowledged as a repetition and never stored. A note counts only if its part is there, or one that it
was merged into.

The log: a line a record, ``operation TAB part TAB block``; operation 1 adds, 2 drops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

LOGS = "deduplication_logs"
_PART = re.compile(r"(?P<partition>[^_]+)_(?P<first>\d+)_(?P<last>\d+)_\d+(?:_\d+)?\Z")
_NUMBER = re.compile(r"deduplication_log_(\d+)\.txt\Z")

Range = tuple[str, int, int]
"""Partition, first and last block number."""


def forget_lost(data: Path) -> int:
    """Mend every table under the engine's data folder; how many notes were taken back."""
    return sum(_mend(folder) for folder in sorted(data.glob(f"store/*/*/{LOGS}")))


def lost(records: Iterable[tuple[str, str, str]], parts: Iterable[str]) -> list[tuple[str, str]]:
    """Part and block of every note that stands and whose rows are in none of ``parts``. Pure."""
    standing: dict[str, str] = {}
    for operation, part, block in records:
        if operation == "1":
            standing[block] = part
        else:
            standing.pop(block, None)
    kept: dict[str, list[tuple[int, int]]] = {}
    for name in parts:
        if (found := _range(name)) is not None:
            kept.setdefault(found[0], []).append(found[1:])
    return [(part, block) for block, part in standing.items() if not _covered(part, kept)]


def _covered(part: str, kept: dict[str, list[tuple[int, int]]]) -> bool:
    found = _range(part)
    if found is None:
        return True  # Not a name that we understand: leave it alone.
    partition, first, last = found
    return any(low <= first and last <= high for low, high in kept.get(partition, ()))


def _range(name: str) -> Range | None:
    found = _PART.match(name)
    return (found["partition"], int(found["first"]), int(found["last"])) if found else None


def _mend(folder: Path) -> int:
    logs = sorted((path for path in folder.iterdir() if _NUMBER.match(path.name)), key=_place)
    if not logs:
        return 0
    _cut_torn_line(logs[-1])
    records = [record for path in logs for line in path.read_text().splitlines() if (record := _record(line))]
    parts = [path.name for path in folder.parent.iterdir() if path.is_dir() and not path.name.startswith("tmp_")]
    gone = lost(records, parts)
    if gone:
        with logs[-1].open("a") as file:
            file.writelines(f"2\t{part}\t{block}\n" for part, block in gone)
    return len(gone)


def _cut_torn_line(path: Path) -> None:
    """A record that a full disk cut short is none."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with path.open("r+b") as file:
            file.truncate(whole)


def _record(line: str) -> tuple[str, str, str] | None:
    cells = line.split("\t")
    return (cells[0], cells[1], cells[2]) if len(cells) == 3 and cells[0] in {"1", "2"} else None


def _place(path: Path) -> int:
    found = _NUMBER.match(path.name)
    return int(found[1]) if found else 0
