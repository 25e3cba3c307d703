"""How is one service, and how is the gateway? Worst evidence first, and no green without all of the evidence. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apps.dashboard.judge import traffic
from apps.dashboard.judge.readings import (
    DEGRADED,
    FAILING,
    HEALTHY,
    MAINTENANCE,
    REPORTS,
    SETUP,
    UNKNOWN,
    BreakerLike,
    Changes,
    EjectedLike,
    InstanceLike,
    Judgement,
    RedLike,
    ServiceInfo,
    Traffic,
    WorkerLike,
)
from apps.dashboard.words import ago, and_list, percent, plural

LATE_WORKER = 5.0
"""Seconds a gateway worker may take to acknowledge a revision before it is said aloud."""


@dataclass(frozen=True, slots=True)
class Blind:
    """Why a kind of evidence is missing; empty where it is there."""

    verdicts: str = ""
    breakers: str = ""
    traffic: str = ""


NOT_BLIND = Blind()


def judge(
    info: ServiceInfo,
    instances: Sequence[InstanceLike],
    met: Judgement,
    own: RedLike | None,
    breaker: BreakerLike | None,
    now: float,
    blind: Blind = NOT_BLIND,
) -> Judgement:
    """The state of one service. ``met``: what its clients met at the gateway (apps.dashboard.judge.traffic)."""
    enabled = [status for status in instances if status.enabled]
    if not instances:
        waits = "setting up: no instance is registered"
        return Judgement(met.state, f"{met.why}; {waits}") if met.state == FAILING else Judgement(SETUP, waits)
    if not enabled:
        return Judgement(MAINTENANCE, "every instance is drained")
    known = {one.instance: instance_state(one, info.interval_s, now, not blind.verdicts) for one in enabled}
    down = [one for one in enabled if known[one.instance] == "unhealthy"]
    if len(down) == len(enabled):
        return Judgement(FAILING, _down(down, len(enabled)), max(one.since for one in down))
    if breaker is not None and breaker.state == "open":
        if breaker.forced:
            return Judgement(FAILING, "breaker held open by an operator", breaker.since)
        rate = f": {percent(breaker.failure_rate)} of calls fail" if breaker.failure_rate else ""
        return Judgement(FAILING, f"breaker open{rate}", breaker.since)
    if met.state == FAILING:
        return met
    if down:
        return Judgement(DEGRADED, _down(down, len(enabled)), min(one.since for one in down))
    silent = [one for one in enabled if known[one.instance] == "unknown"]
    if len(silent) == len(enabled):
        return Judgement(UNKNOWN, blind.verdicts or _silence(silent, info.interval_s, now))
    out = ejected(breaker)
    if gone := next((one.instance for one in enabled if one.instance in out), ""):
        return Judgement(DEGRADED, f"{gone} ejected: {out[gone].reason}", out[gone].since)
    if breaker is not None and breaker.panic:
        return Judgement(DEGRADED, "too few instances look fit, so all of them are tried")
    if breaker is not None and breaker.state == "half_open":
        return Judgement(DEGRADED, "breaker half-open: trial calls decide", breaker.since)
    if met.state == DEGRADED:
        return met
    if said := traffic.own_report(own):
        return said[0]
    if silent:
        return Judgement(DEGRADED, f"{silent[0].instance}: {_silence(silent, info.interval_s, now)}")
    if blind.traffic:
        return Judgement(UNKNOWN, f"answers its checks, errors not known: {blind.traffic}")
    if blind.breakers:
        return Judgement(UNKNOWN, f"answers its checks, breaker not known: {blind.breakers}")
    return Judgement(HEALTHY)


def ejected(breaker: BreakerLike | None) -> dict[str, EjectedLike]:
    """Who the gateway took out of rotation, by the instance's name in its service."""
    return {one.instance.rpartition("/")[2]: one for one in breaker.ejected} if breaker is not None else {}


def judge_reporter(own: RedLike | None) -> Judgement:
    """A service that nobody registered: what it says of itself is all there is."""
    said = traffic.own_report(own)
    return said[0] if said else Judgement(REPORTS, "not registered: seen in telemetry only")


def instance_state(status: InstanceLike, interval_s: float | None, now: float, fresh: bool = True) -> str:
    """healthy, unhealthy or unknown: a verdict older than three intervals and two seconds is none."""
    if not status.enabled:
        return "drained"
    if interval_s is None or status.checked_at is None or not fresh:
        return "unknown"
    return status.state if -60 <= now - status.checked_at <= 3 * interval_s + 2 else "unknown"


def instance_words(status: InstanceLike) -> str:
    """What the last check found, and how far it is on the way to another verdict."""
    if status.state == "unhealthy" and status.passes:
        return f"recovering, {status.passes} of {status.rise} checks passed"
    if status.state == "healthy" and status.failures:
        return f"{status.failures} of {status.fall} checks failed: {status.detail or 'no answer'}"
    return status.detail


def _down(down: Sequence[InstanceLike], total: int) -> str:
    worst = down[0]
    detail = instance_words(worst)
    told = f"{worst.instance}: {detail}" if detail else f"{worst.instance} is unhealthy"
    return told if total == 1 else f"{len(down)} of {plural(total, 'instance')} down, {told}"


def _silence(unknown: Sequence[InstanceLike], interval_s: float | None, now: float) -> str:
    if interval_s is None:
        return "no health check is set up"
    checks = [status.checked_at for status in unknown if status.checked_at is not None]
    return f"no verdict for {ago(now - max(checks))}" if checks else "not checked yet"


# -- the gateway --------------------------------------------------------------------------------


def judge_gateway(
    workers: Sequence[WorkerLike],
    changes: Changes,
    seen: Traffic,
    states: Mapping[str, str],
    now: float,
    *,
    down: str = "",
    unseen: str = "",
    blind: Blind = NOT_BLIND,
) -> Judgement:
    """The data plane: do workers report, do they serve the newest revision, do requests fail?

    ``down``: why nobody serves, when that is known; ``unseen``: why the workers can't be seen.
    """
    if down:
        return Judgement(FAILING, down)
    if unseen:
        return Judgement(UNKNOWN, unseen)
    if silent := _silent_workers(workers):
        return Judgement(DEGRADED, silent)
    newest, published = changes.revision, changes.published_at or 0.0
    late = [worker for worker in workers if newest is not None and worker.revision < newest]
    if late and now - published > LATE_WORKER:
        count = f"{len(late)} of {plural(len(workers), 'worker')}"
        return Judgement(DEGRADED, f"{count} still serve revision {late[0].revision}")
    if found := traffic.errors(traffic.EXPECTED, seen.total, seen.recent.total if seen.recent else None):
        broken = [name for name, state in states.items() if state == FAILING]
        cause = f", passing on the failures of {and_list(broken)}" if broken else ""
        # Passing on what services answer is its job: that is no failure of the data plane itself.
        return Judgement(DEGRADED, f"{found[0].why}{cause}")
    if blind.traffic:
        return Judgement(UNKNOWN, f"workers report, errors not known: {blind.traffic}")
    return Judgement(HEALTHY)


def _silent_workers(workers: Sequence[WorkerLike]) -> str:
    """Of which node not all workers are heard: one that hangs keeps its connections, and answers none of them."""
    for node in sorted({worker.node for worker in workers}):
        heard = [worker for worker in workers if worker.node == node]
        # The least that any of them says: after a restart with fewer, the former ones' word stands for a while.
        wanted = min((worker.of for worker in heard if worker.of), default=0)
        if len(heard) < wanted:
            verb = "gives" if wanted - len(heard) == 1 else "give"
            return f"{wanted - len(heard)} of {plural(wanted, 'worker')} on {node} {verb} no sign of life"
    return ""
