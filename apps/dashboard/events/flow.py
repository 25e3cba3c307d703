"""Who publishes what and who takes it, as a picture of three columns: producers, types, subscriptions. Pure.

It is read in five seconds, however many types there are: types are shown in groups by their first segments, as fine as
the rows allow and finest where something is wrong; what is wrong stands on top. The picture is laid out here and drawn
by the template; who can't see it has the same as a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from apps.dashboard.events.links import flow_url, kind_url, source_url
from apps.dashboard.words import plural

ROWS = 14
"""Boxes in one column. What is more goes into groups, and the calmest into one box that counts them."""
ROW, BOX, TOP = 44, 34, 4
"""Pixels: from one box to the next, a box's height, above the first."""
WIDTH = 1160
COLUMNS = ((0, 250), (400, 360), (880, 280))
"""Left edge and width of each column."""
OWN = frozenset({"control", "system"})
"""Domains in which Mission Control and the bus speak of themselves. Nobody has to take these, and most are seldom."""
WEIGHT = {"failing": 0, "degraded": 1, "untaken": 2, "unknown": 3, "maintenance": 4}
"""States in the order of their weight; what is not here is fine."""
FINE = 5
OTHERS = "others"
MORE = ""
"""The box of those that have none of their own: nobody is called so."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type of event, who publishes how many a second of it, and who takes it. ``seen``: lately."""

    name: str
    rate: float = 0.0
    producers: Mapping[str, float] = field(default_factory=dict)
    takers: Sequence[str] = ()
    seen: bool = True

    @property
    def own(self) -> bool:
        return self.name.partition(".")[0] in OWN

    @property
    def idle(self) -> bool:
        """Whether nobody misses it: of our own, and not published lately."""
        return self.own and not self.seen

    @property
    def untaken(self) -> bool:
        """Whether it is published and goes nowhere."""
        return self.seen and not self.own and not self.takers


@dataclass(frozen=True, slots=True)
class Taker:
    """A subscription. ``state`` as services have them; ``told`` in words: lag, dead letters."""

    name: str
    state: str = "healthy"
    told: str = ""
    url: str = ""
    stands: bool = False
    """Whether it is paused or disabled, so that nothing flows to it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One type, or several below the segments of ``prefix``. ``state``: of the worst that takes it, or untaken."""

    types: Sequence[Type]
    prefix: str = ""
    state: str = "healthy"

    @property
    def name(self) -> str:
        if len(self.types) == 1:
            return self.types[0].name
        return f"{self.prefix}.#" if self.prefix else OTHERS

    @property
    def url(self) -> str:
        """The type's page, or the map of those below the prefix."""
        if len(self.types) == 1:
            return kind_url(self.types[0].name)
        return flow_url(self.prefix) if self.prefix else ""

    @property
    def told(self) -> str:
        """How many it stands for, and how many of these nobody takes."""
        untaken = sum(one.untaken for one in self.types)
        parts = [plural(len(self.types), "type")] if len(self.types) > 1 else []
        if untaken:
            parts.append("nobody takes it" if len(self.types) == 1 else f"nobody takes {untaken:,}")
        return ", ".join(parts)

    @property
    def rate(self) -> float:
        return sum(one.rate for one in self.types)

    @property
    def producers(self) -> dict[str, float]:
        """Name → events a second, the busiest first."""
        return _summed(one.producers for one in self.types)

    @property
    def first_producers(self) -> list[tuple[str, float]]:
        """As many as a line of the list names."""
        return list(self.producers.items())[:4]

    def takers(self, known: Mapping[str, Taker]) -> list[str]:
        """Who takes any of it, the worst first."""
        names = {name for one in self.types for name in one.takers if name in known}
        return sorted(names, key=lambda name: (_weight(known[name].state), name))


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
        name = self.name or OTHERS
        return name if len(name) <= most else f"{name[: most - 1]}…"


@dataclass(frozen=True, slots=True)
class Line:
    """From one box to another. ``weight``: 0 (nothing lately) to 4, by how much flows; ``state``: of who takes."""

    d: str
    weight: int
    state: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is drawn; ``rows`` are the types' boxes, for the list."""

    boxes: Sequence[Box]
    lines: Sequence[Line]
    height: int
    rows: Sequence[Row] = ()
    width: int = WIDTH


def rows_of(types: Sequence[Type], takers: Mapping[str, Taker], most: int = ROWS) -> list[Row]:
    """At most ``most`` rows that stand for all of ``types``, the worst and then the busiest first."""
    rows = _parted(types, 1, takers)
    while True:
        for at, row in enumerate(rows):
            parts = _split(row, takers)
            if parts and len(rows) - 1 + len(parts) <= most:
                rows = sorted([*rows[:at], *rows[at + 1 :], *parts], key=_rank)
                break
        else:
            break
    if len(rows) > most:
        rest = [one for row in rows[most - 1 :] for one in row.types]
        rows = [*rows[: most - 1], Row(rest, "", _state(rest, takers))]
    return rows


def wrong(takers: Mapping[str, Taker]) -> list[Taker]:
    """Those that fail, lag or are not heard, the worst first; paused is no fault."""
    found = [one for one in takers.values() if _weight(one.state) < WEIGHT["maintenance"]]
    return sorted(found, key=lambda one: (_weight(one.state), one.name))


def _split(row: Row, takers: Mapping[str, Taker]) -> list[Row]:
    """The row's parts by its first segment that tells them apart; none for one type."""
    if len(row.types) == 1:
        return []
    deep = row.prefix.count(".") + 2
    while len(parts := _parted(row.types, deep, takers)) == 1:
        deep += 1
    return parts


def _parted(types: Sequence[Type], deep: int, takers: Mapping[str, Taker]) -> list[Row]:
    """By their first ``deep`` segments. A type that has no more of them stands by itself."""
    parts: dict[tuple[str, bool], list[Type]] = {}
    for one in types:
        segments = one.name.split(".")
        parts.setdefault((".".join(segments[:deep]), len(segments) <= deep), []).append(one)
    return sorted((Row(found, prefix, _state(found, takers)) for (prefix, _), found in parts.items()), key=_rank)


def _state(types: Iterable[Type], takers: Mapping[str, Taker]) -> str:
    states = {takers[name].state for one in types for name in one.takers if name in takers}
    if any(one.untaken for one in types):
        states.add("untaken")
    return min(states, key=_weight, default="healthy")


def _weight(state: str) -> int:
    return WEIGHT.get(state, FINE)


def _rank(row: Row) -> tuple[int, float, str]:
    return _weight(row.state), -row.rate, row.name


def lay_out(rows: Sequence[Row], takers: Mapping[str, Taker], held: Mapping[str, str] | None = None) -> Picture:
    """The rows and whoever has to do with them; the worst on top, in an order in which few lines cross. ``held``: what
    publishers can't get rid of, in words."""
    held = held or {}
    making: dict[str, list[int]] = {}
    taking: dict[str, list[int]] = {name: [] for name in takers}
    for n, row in enumerate(rows):
        for name in row.producers:
            making.setdefault(name, []).append(n)
        for name in row.takers(takers):
            taking[name].append(n)
    rates = _summed(row.producers for row in rows)
    makers = sorted(making, key=lambda name: (name not in held, not rates[name], -rates[name], name))
    right = sorted(takers, key=lambda name: (_weight(takers[name].state), not taking[name], _mean(taking[name]), name))
    # Who publishes nothing lately goes first into the box that counts the others.
    makers, more_makers = _cut(makers, sum(1 for name in makers if rates[name] or name in held))
    right, more_takers = _cut(right)
    makers.sort(key=lambda name: (_mean(making[name]), name))
    height = max(len(makers) + bool(more_makers), len(rows), len(right) + bool(more_takers), 1) * ROW + TOP
    left = [_maker(name, rates[name], held.get(name, "")) for name in makers]
    if more_makers:
        left.append(Box("producer", MORE, 0, 0, 0, sum(rates[name] for name in more_makers), _more(more_makers)))
    middle = [Box("type", row.name, 0, 0, 0, row.rate, row.told, row.state, row.url) for row in rows]
    last = [_taker(takers[name], rows, taking[name]) for name in right]
    if more_takers:
        worst = min((takers[name].state for name in more_takers), key=_weight)
        last.append(Box("taker", MORE, 0, 0, 0, None, _more(more_takers), worst))
    columns = [_column(n, boxes, height) for n, boxes in enumerate((left, middle, last))]
    return Picture([*columns[0], *columns[1], *columns[2]], _lines(rows, takers, columns), height, rows)


def _more(names: Sequence[str]) -> str:
    return f"{len(names):,} more"


def _cut(names: list[str], most: int = ROWS) -> tuple[list[str], list[str]]:
    """All when there are rows for them, or as many of the first ``most`` as there are rows for, and the others."""
    end = len(names) if len(names) <= ROWS else min(most, ROWS - 1)
    return names[:end], names[end:]


def _maker(name: str, rate: float, held: str) -> Box:
    return Box("producer", name, 0, 0, 0, rate, held, "failing" if held else "", source_url(name))


def _taker(one: Taker, rows: Sequence[Row], taken: Sequence[int]) -> Box:
    """With how many a second it gets of what is published."""
    rate = None if one.stands else sum(type.rate for n in taken for type in rows[n].types if one.name in type.takers)
    return Box("taker", one.name, 0, 0, 0, rate, one.told, one.state, one.url)


def _column(number: int, boxes: Sequence[Box], height: int) -> list[Box]:
    x, width = COLUMNS[number]
    step = (height - TOP) / max(len(boxes), 1)
    return [
        Box(b.kind, b.name, x, round(TOP + n * step + (step - BOX) / 2), width, b.rate, b.told, b.state, b.url)
        for n, b in enumerate(boxes)
    ]


def _lines(rows: Sequence[Row], takers: Mapping[str, Taker], columns: Sequence[Sequence[Box]]) -> list[Line]:
    """One for each two boxes that have to do with each other; the worst last, above the others."""
    made, taken = ({box.name: box for box in column} for column in (columns[0], columns[2]))
    flows: dict[tuple[Box, Box], tuple[float, str]] = {}
    for row, box in zip(rows, columns[1], strict=True):
        for name, rate in row.producers.items():
            _add(flows, made.get(name) or made[MORE], box, rate, "")
        for name in row.takers(takers):
            rate = sum(one.rate for one in row.types if name in one.takers)
            _add(flows, box, taken.get(name) or taken[MORE], rate, takers[name].state)
    found = sorted(flows.items(), key=lambda one: -_weight(one[1][1]))
    return [_line(start, end, rate, state) for (start, end), (rate, state) in found]


def _add(flows: dict[tuple[Box, Box], tuple[float, str]], start: Box, end: Box, rate: float, state: str) -> None:
    before, worst = flows.get((start, end), (0.0, state))
    flows[start, end] = before + rate, min(worst, state, key=_weight)


def _line(start: Box, end: Box, rate: float, state: str) -> Line:
    x1, y1, x2, y2 = start.x + start.width, start.middle, end.x, end.middle
    bend = (x2 - x1) // 2
    weight = 0 if not rate else 1 if rate < 0.1 else 2 if rate < 10 else 3 if rate < 1000 else 4
    return Line(f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}", weight, state)


def _summed(rates: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in rates:
        for name, rate in one.items():
            found[name] = found.get(name, 0.0) + rate
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
