"""Mission Control's own processes: which run, which are stopped, crash again and again, or hang. Pure.

Two kinds of evidence. The supervisor of this machine knows what runs, and a process that works gives a sign: a key
or an answer on Redis, an answer of ClickHouse, a report that came through the collector. Running without a sign is
hanging; a sign alone is enough for a process on another machine. A sign that can't be read says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apps.dashboard.judge.readings import DEGRADED, FAILING, HEALTHY, UNKNOWN, Changes, Process, Readings
from apps.dashboard.words import ago, plural

TITLES = {
    "redis": "Redis",
    "clickhouse": "ClickHouse",
    "collector": "the collector",
    "worker": "the monitor",
    "beat": "the scheduler",
    "relay": "the relay",
    "gateway": "the gateway",
    "control": "control",
}
"""Mission Control's parts, those first that others can't be seen without."""
VIA = {"collector": "clickhouse", "worker": "redis", "beat": "redis", "relay": "redis", "gateway": "redis"}
"""Part → through which other part its signs are seen."""
ASKED = frozenset({"redis", "clickhouse"})
"""Parts that answer questions; the others give signs by themselves."""
SILENT = {"redis": 8.0, "clickhouse": 12.0, "collector": 15.0, "worker": 10.0, "beat": 10.0, "relay": 10.0}
SILENT |= {"gateway": 10.0, "control": 8.0}
"""Seconds without a sign after which a part no longer counts as working."""
AHEAD = 60.0
"""Seconds that another machine's clock may be ahead; further, its times say nothing."""
SUPERVISOR = 8.0
"""Seconds for which the supervisor's last word counts."""
STARTING = 20.0
"""Seconds that a process may take from its start to its first sign."""
BACKOFF, BACKLOG = "BACKOFF", 30.0
"""supervisord's word for a process that ended at its start; seconds an event may wait while the relay runs."""
LOOPING = 3
"""Starts within ten minutes that are a crash loop."""
DOWN = {"STOPPED": "is stopped", "EXITED": "has ended", "FATAL": "could not be started and was given up"}


@dataclass(frozen=True, slots=True)
class Part:
    """One process as the page shows it. ``why`` reads on from its title: "the relay" "is stopped"."""

    name: str
    state: str
    word: str
    """running, starting, stopped, crash-looping, silent or unknown."""
    why: str
    since: float | None = None
    pid: int = 0
    starts: int = 0
    seen_at: float | None = None
    lost: Mapping[str, int] = field(default_factory=dict)
    """What it dropped or refused in the last hour, and how many."""

    @property
    def sentence(self) -> str:
        return f"{TITLES.get(self.name, self.name)} {self.why}"

    @property
    def well(self) -> bool:
        return self.state == HEALTHY


def young(at: float | None, now: float, limit: float, error: str = "") -> bool:
    """Whether what was said at ``at`` still counts: half as long once asking again has failed."""
    return at is not None and -AHEAD <= now - at <= (limit / 2 if error else limit)


def parts(readings: Readings, now: float) -> dict[str, Part]:
    """Mission Control's parts, and whatever else the supervisor runs beside them."""
    supervised = supervisor(readings, now)
    seen = signs(readings)
    errors = {"redis": readings.plane.error and readings.signs.error, "clickhouse": readings.traffic.error}
    found: dict[str, Part] = {}
    for name in TITLES:
        through = found.get(VIA.get(name, ""))
        # Behind a part that does not answer nothing is seen, which is not the same as nobody being there.
        blind = through.sentence if through is not None and not through.well else ""
        found[name] = part(
            name, supervised.get(name) if supervised else None, seen[name], now, blind, errors.get(name, "")
        )
    for name, process in sorted((supervised or {}).items()):
        if name not in found:
            found[name] = part(name, process, now, now)
    found["relay"] = _with_backlog(found["relay"], readings.changes.value, now)
    losses = readings.losses.value
    return {name: replace(one, lost=losses.get(name, {})) for name, one in found.items()}


def _with_backlog(relay: Part, changes: Changes, now: float) -> Part:
    """What waits because the relay is down, or although it runs."""
    if not changes.waiting or changes.oldest_at is None:
        return relay
    waits = f"{plural(changes.waiting, 'event')} waiting, the oldest for {ago(now - changes.oldest_at)}"
    if relay.state == FAILING:
        return replace(relay, why=f"{relay.why}, {waits}")
    if relay.well and now - changes.oldest_at > BACKLOG:
        return replace(relay, state=DEGRADED, word="behind", why=f"is behind: {waits}")
    return relay


def supervisor(readings: Readings, now: float) -> dict[str, Process] | None:
    """What the supervisor of this machine says; None when there is none, or it has fallen silent."""
    reading = readings.processes
    return dict(reading.value) if reading is not None and young(reading.at, now, SUPERVISOR) else None


def signs(readings: Readings) -> dict[str, float | None]:
    """Part → when it last gave a sign of life that reached us; control is who asks."""
    said = readings.signs.value
    workers = [worker.at for worker in readings.plane.value.workers]
    return {
        "redis": max(readings.plane.at, readings.signs.at) or None,
        "clickhouse": readings.traffic.at or None,
        "collector": readings.traffic.value.reported_at or None,
        "worker": said.get("worker"),
        "beat": said.get("beat"),
        "relay": said.get("relay"),
        "gateway": max(workers) if workers else None,
        "control": max(readings.registry.at, readings.plane.at, readings.changes.at) or None,
    }


def part(
    name: str, process: Process | None, seen_at: float | None, now: float, blind: str = "", error: str = ""
) -> Part:
    """One process, by what its supervisor says and by when it was last seen at work.

    ``blind``: why it can't be seen; ``error``: why it did not answer when last asked.
    """
    since, pid = (process.since, process.pid) if process else (None, 0)
    starts = process.starts if process else 0

    def said(state: str, word: str, why: str) -> Part:
        return Part(name, state, word, why, since or seen_at, pid, starts, seen_at)

    if process is not None:
        if process.state in DOWN:
            reason = f": {process.reason}" if process.reason else ""
            word = "crash-looping" if process.state == "FATAL" else "stopped"
            return said(FAILING, word, f"{DOWN[process.state]}{reason}")
        if process.state == BACKOFF:
            return said(FAILING, "crash-looping", "ends at every start")
        if starts >= LOOPING:
            return said(FAILING, "crash-looping", f"crashes again and again: started {starts} times in ten minutes")
        if process.state == "STOPPING":
            return said(DEGRADED, "stopping", "is stopping")
    if young(seen_at, now, SILENT.get(name, SILENT["worker"]), error):
        return said(HEALTHY, "running", f"process {pid}" if pid else "gives signs of life")
    began = process.since if process is not None else None
    if began is not None and now - began < STARTING and (seen_at is None or seen_at <= began):
        return said(DEGRADED, "starting", "is starting")
    if blind:
        return said(UNKNOWN, "unknown", f"can't be seen: {blind}")
    runs = "runs but " if process is not None and name not in ASKED else ""
    return said(UNKNOWN, "silent", f"{runs}{_silence(name, seen_at, now)}")


def _silence(name: str, seen_at: float | None, now: float) -> str:
    if not seen_at:
        return "does not answer" if name in ASKED else "has given no sign of life"
    if seen_at > now:
        return f"gives times that can't be: its clock is {ago(seen_at - now)} ahead"
    return f"has {'not answered' if name in ASKED else 'been silent'} for {ago(now - seen_at)}"
