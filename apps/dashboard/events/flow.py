"""Who publishes what and who takes it, as a picture of three columns: producers, types, subscriptions. Pure.

The picture is laid out here and drawn by the template; who can't see it has the same as a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MOST = 40
"""Boxes in one column; what is left out is counted."""
ROW, BOX, TOP = 46, 34, 8
"""Pixels: from one box to the next, a box's height, above the first."""
WIDTH = 1160
COLUMNS = ((0, 250), (400, 360), (880, 280))
"""Left edge and width of each column."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type of event, who publishes how many a second of it, and who takes it."""

    name: str
    rate: float = 0.0
    producers: Mapping[str, float] = field(default_factory=dict)
    takers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Taker:
    """A subscription. ``state`` as services have them; ``told`` in words: lag, dead letters."""

    name: str
    state: str = "healthy"
    told: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """One box: its text, a line below it, and where it stands."""

    kind: str
    name: str
    x: int
    y: int
    width: int
    rate: float | None = None
    told: str = ""
    state: str = ""
    url: str = ""

    @property
    def middle(self) -> int:
        return self.y + BOX // 2

    @property
    def short(self) -> str:
        """The name as far as the box is wide."""
        most = self.width // 8
        return self.name if len(self.name) <= most else f"{self.name[: most - 1]}…"


@dataclass(frozen=True, slots=True)
class Line:
    """From one box to another. ``weight``: 1 to 4, by how much flows; ``state``: of who takes."""

    d: str
    weight: int
    state: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is drawn."""

    boxes: Sequence[Box]
    lines: Sequence[Line]
    height: int
    width: int = WIDTH
    left_out: int = 0


def lay_out(types: Sequence[Type], takers: Mapping[str, Taker]) -> Picture:
    """The busiest types and whoever has to do with them, in an order in which few lines cross."""
    shown = sorted(types, key=lambda one: (-one.rate, one.name))[:MOST]
    shown.sort(key=lambda one: (min(one.producers, default="~"), one.name))
    makers = list(dict.fromkeys(name for one in shown for name in sorted(one.producers)))[:MOST]
    taking = sorted({name for one in shown for name in one.takers if name in takers})
    idle = sorted(name for name in takers if name not in taking)
    places = {one.name: n for n, one in enumerate(shown)}
    taking.sort(key=lambda name: _mean([places[one.name] for one in shown if name in one.takers]))
    right = [*taking, *idle][:MOST]
    height = max(len(makers), len(shown), len(right), 1) * ROW + TOP
    rates = {name: sum(one.producers.get(name, 0.0) for one in shown) for name in makers}
    left = _column(0, "producer", [(name, rates[name], "", "", "") for name in makers], height)
    middle = _column(1, "type", [(one.name, one.rate, "", "", "") for one in shown], height)
    last = _column(
        2, "taker", [(name, None, takers[name].told, takers[name].state, takers[name].url) for name in right], height
    )
    lines = []
    for one in shown:
        lines += [_line(left[name], middle[one.name], rate, "") for name, rate in one.producers.items() if name in left]
        lines += [
            _line(middle[one.name], last[name], one.rate, last[name].state) for name in one.takers if name in last
        ]
    out = len(types) - len(shown) + len(taking) + len(idle) - len(right)
    return Picture([*left.values(), *middle.values(), *last.values()], lines, height, left_out=out)


def _column(
    number: int, kind: str, rows: Sequence[tuple[str, float | None, str, str, str]], height: int
) -> dict[str, Box]:
    x, width = COLUMNS[number]
    step = (height - TOP) / max(len(rows), 1)
    return {
        name: Box(kind, name, x, round(TOP + n * step + (step - BOX) / 2), width, rate, told, state, url)
        for n, (name, rate, told, state, url) in enumerate(rows)
    }


def _line(start: Box, end: Box, rate: float, state: str) -> Line:
    x1, y1, x2, y2 = start.x + start.width, start.middle, end.x, end.middle
    bend = (x2 - x1) // 2
    weight = 1 if rate < 0.1 else 2 if rate < 10 else 3 if rate < 1000 else 4
    return Line(f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}", weight, state)


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
