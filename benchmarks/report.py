"""One measured figure and the table of all of them, against what the design demands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


class Falsified(RuntimeError):
    """The run does not measure what it says it does: an error answer, a missing peer, lost telemetry."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What we measured, what the peers did in the same run, and what was demanded.

    ``must`` and ``aim`` are compared with ``ratio`` where there is one, else with ``ours``.
    """

    id: str
    what: str
    ours: float
    unit: str
    peers: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    must: float | None = None
    aim: float | None = None
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def judged(self) -> float:
        """The number that ``must`` and ``aim`` speak of."""
        return self.ours if self.ratio is None else self.ratio

    def reaches(self, goal: float) -> bool:
        """Whether the judged number is at least as good as ``goal``."""
        return self.judged >= goal if self.better == "higher" else self.judged <= goal

    @property
    def verdict(self) -> str:
        """``aim reached``, ``ok`` or ``MISSED``."""
        if self.must is not None and not self.reaches(self.must):
            return "MISSED"
        if self.aim is not None and self.reaches(self.aim):
            return "aim reached"
        return "ok"


def table(figures: list[Figure]) -> str:
    """The figures for a terminal, one row each, notes below."""
    rows = [("", "what", "ours", "peers", "ratio", "must", "aim", "verdict")]
    for one in figures:
        peers = ", ".join(f"{name} {amount(value)}" for name, value in one.peers.items())
        ratio = f"{one.ratio:.2f}" if one.ratio is not None else ""
        goals = [amount(goal) if goal is not None else "" for goal in (one.must, one.aim)]
        rows.append((one.id, one.what, f"{amount(one.ours)} {one.unit}".strip(), peers, ratio, *goals, one.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{one.id}: {one.note}" for one in figures if one.note]
    missed = [one.id for one in figures if one.verdict == "MISSED"]
    if missed:
        notes.append(f"MISSED what it must reach: {', '.join(dict.fromkeys(missed))}.")
    return "\n".join(lines + (["", *notes] if notes else []))


def amount(value: float) -> str:
    """A number at the precision a reader can use."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
