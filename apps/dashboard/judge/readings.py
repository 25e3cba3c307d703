"""What there is to judge by, and how old each part of it is. Pure.

A source that has fallen silent keeps what it last said, with the moment it said it: whatever depends on it is grey
from then on. Times are wall-clock seconds, durations of requests milliseconds, shares 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")

FAILING, DEGRADED, UNKNOWN, MAINTENANCE, HEALTHY = "failing", "degraded", "unknown", "maintenance", "healthy"
SETUP, REPORTS = "setup", "reports"
"""Not judged: a service that has no instance yet, and one that nobody registered and that only sends telemetry."""
WORST_FIRST = (FAILING, DEGRADED, UNKNOWN, SETUP, MAINTENANCE, HEALTHY, REPORTS)
RANK = {state: rank for rank, state in enumerate(WORST_FIRST)}


class InstanceLike(Protocol):
    """An instance's last verdict (apps.health.queries.InstanceStatus)."""

    @property
    def service(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def checked_at(self) -> float | None: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def detail(self) -> str: ...
    @property
    def passes(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def rise(self) -> int: ...
    @property
    def fall(self) -> int: ...


class RedLike(Protocol):
    """Rate, errors and duration over the last minute (apps.telemetry.queries)."""

    @property
    def requests(self) -> float: ...
    @property
    def errors(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def error_rate(self) -> float: ...
    @property
    def p50_ms(self) -> float | None: ...
    @property
    def p95_ms(self) -> float | None: ...
    @property
    def p99_ms(self) -> float | None: ...


class EjectedLike(Protocol):
    """An instance that a gateway worker took out of its rotation (apps.gateway.queries.EjectedInstance)."""

    @property
    def instance(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def reason(self) -> str: ...


class BreakerLike(Protocol):
    """The worst state of a service's breaker over live workers (apps.gateway.queries.BreakerStatus)."""

    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def forced(self) -> Any: ...
    @property
    def failure_rate(self) -> float | None: ...
    @property
    def retry_at(self) -> float | None: ...
    @property
    def ejected(self) -> Sequence[EjectedLike]: ...
    @property
    def panic(self) -> bool: ...


class WorkerLike(Protocol):
    """A live gateway worker (apps.gateway.queries.WorkerStatus)."""

    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def at(self) -> float: ...
    @property
    def pid(self) -> int: ...
    @property
    def node(self) -> str: ...
    @property
    def dropped(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def of(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """The last good answer of a source, and when it was asked for; ``error`` says why there is none newer."""

    value: T
    at: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A registered service; ``interval_s`` is how often its instances are probed, None when they are not."""

    name: str
    title: str
    interval_s: float | None


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A route and what is expected of it. ``slow_ms`` None: judged by its deadline and its own last hour."""

    name: str
    service: str
    path: str
    policy: str = ""
    """The rate limit of its consumers that have none of their own."""
    degraded_share: float = 0.05
    failing_share: float = 0.25
    slow_ms: float | None = None
    deadline_ms: float = 15_000.0


@dataclass(frozen=True, slots=True)
class Registry:
    """What the database holds: who should be there, and the last verdict on each instance."""

    services: Sequence[ServiceInfo] = ()
    instances: Sequence[InstanceLike] = ()
    routes: Mapping[str, RouteInfo] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    """Consumer → the rate limit of its own."""


@dataclass(frozen=True, slots=True)
class Plane:
    """What the gateway's workers say of themselves on Redis."""

    breakers: Mapping[str, BreakerLike] = field(default_factory=dict)
    workers: Sequence[WorkerLike] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """What the gateway saw in the last minute of one service, one route, or all: what clients were answered."""

    requests: int = 0
    errors: int = 0
    """Answers of 500 and above, whoever made them."""
    limited: int = 0
    """429."""
    refused: int = 0
    """Refused for another reason before a service was asked: no credential, a wrong one, not allowed, too large."""
    rate: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Caller:
    """A consumer that met its limit on a route in the last minute."""

    consumer: str
    """Empty: callers without a credential."""
    route: str
    service: str
    requests: int
    limited: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason for which the gateway turned requests away in the last minute, its limits aside."""

    route: str
    service: str
    failure: str
    """The problem's slug."""
    requests: int


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest twenty or thirty seconds, which tell whether failures of the minute are over."""

    total: Edge
    services: Mapping[str, Edge]
    routes: Mapping[str, Edge]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the telemetry store holds: the gateway's records first, and what services report of themselves."""

    reported_at: float = 0.0
    """The newest report of any gateway worker in the store."""
    total: Edge = Edge()
    services: Mapping[str, Edge] = field(default_factory=dict)
    routes: Mapping[str, Edge] = field(default_factory=dict)
    recent: Recent | None = None
    """The end of that minute, read when something failed in it."""
    usual_p95_ms: Mapping[str, float] = field(default_factory=dict)
    """Route → its p95 over the last hour, for routes with enough requests to have a habit."""
    callers: Sequence[Caller] = ()
    refusals: Sequence[Refusal] = ()
    affected: Sequence[Mapping[str, Any]] = ()
    """The last five minutes, for people: the worst of them."""
    failed: int = 0
    """Requests that failed in the last five minutes, all of them."""
    failed_callers: int = 0
    """Different consumers that met one."""
    blame: Mapping[str, str] = field(default_factory=dict)
    """Service → the dependency whose failure its recent failed requests carry."""
    sparks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    own: Mapping[str, RedLike] = field(default_factory=dict)
    """What a service reports of itself: its server spans of the last minute."""
    reporters: Set[str] = frozenset()
    """Every service that reported anything in the last hour."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened lately, newest first; the configuration that should be serving; what waits to be sent."""

    recent: Sequence[Mapping[str, Any]] = ()
    total: int = 0
    """How many there were in the hour, of which ``recent`` are the newest."""
    cut: bool = False
    """There were more than are counted."""
    revision: int | None = None
    published_at: float | None = None
    bars: Mapping[str, Sequence[str]] = field(default_factory=dict)
    waiting: int = 0
    """Events in the outbox."""
    oldest_at: float | None = None
    """When the oldest of them was published."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """One subscription and what it leaves undone."""

    name: str
    kind: str
    state: str
    """active, paused or disabled."""
    reason: str = ""
    lag: int | None = 0
    """Events that it has not read of the log; a service's consumer, says it of its broker. None: not known."""
    behind_since: float | None = None
    """When the first of them was published; of a service's, since when there are several."""
    opened_until: float | None = None
    """Its own breaker is open until then."""
    failing_since: float | None = None
    open: Mapping[str, int] = field(default_factory=dict)
    """Its letters by state: retrying, parked, failed, redriving."""
    heard_at: float | None = None
    """When a service's consumer last said how it is."""
    parked: int = 0
    """Events that it says to hold as rows."""
    missing: int = 0
    """Events that it says never came."""
    blind: bool = False
    """Nobody can know what it says."""


@dataclass(frozen=True, slots=True)
class Projected:
    """The live build of a projection."""

    name: str
    behind: int = 0
    behind_since: float | None = None
    """When the first event that it has not taken was published."""
    fault: str = ""
    """Why it stands still, if it does."""


@dataclass(frozen=True, slots=True)
class Bus:
    """What the log and its subscriptions say of themselves."""

    head: int = 0
    """The newest position in the log."""
    receivers: Sequence[Receiver] = ()
    keys: int = 0
    """Keys whose later events wait behind one that was not taken."""
    failed_at: float | None = None
    """When the first of the letters that wait for somebody's word was given up."""
    forged: int = 0
    """Entries of the bus that nobody could prove to be of their source, in the last hour."""
    holes: int = 0
    """Events that their publishers numbered and that have not come."""
    projections: Sequence[Projected] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A service's consumer group, as it last said itself."""

    heard_at: float
    lag: int = 0
    """Events that its broker holds for it, unacknowledged."""
    parked: int = 0
    missing: int = 0
    behind_since: float | None = None
    """Since when it has had several to go."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One publisher's events for one broker, in its outbox."""

    publisher: str
    broker: str
    events: int
    oldest_s: float
    away: bool
    """The broker takes nothing of it now."""


@dataclass(frozen=True, slots=True)
class Reports:
    """What consumers and publishers, wherever they run, said of themselves by their metrics."""

    groups: Mapping[str, Group] = field(default_factory=dict)
    waiting: Sequence[Waiting] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """One process as its supervisor knows it. ``state`` is supervisord's word; ``starts`` are the last minutes'."""

    name: str
    state: str
    since: float
    pid: int = 0
    reason: str = ""
    starts: int = 0
    """How often it was started again in the last ten minutes."""


NO_SIGNS: Mapping[str, float] = {}
NO_LOSSES: Mapping[str, Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything that one state document is made of. ``processes`` None: no supervisor runs them on this machine."""

    registry: Reading[Registry] = field(default_factory=lambda: Reading(Registry()))
    plane: Reading[Plane] = field(default_factory=lambda: Reading(Plane()))
    signs: Reading[Mapping[str, float]] = field(default_factory=lambda: Reading(NO_SIGNS))
    """Signs of life on Redis: process → when it last gave one."""
    traffic: Reading[Traffic] = field(default_factory=lambda: Reading(Traffic()))
    changes: Reading[Changes] = field(default_factory=lambda: Reading(Changes()))
    bus: Reading[Bus] = field(default_factory=lambda: Reading(Bus()))
    reports: Reading[Reports] = field(default_factory=lambda: Reading(Reports()))
    losses: Reading[Mapping[str, Mapping[str, int]]] = field(default_factory=lambda: Reading(NO_LOSSES))
    """Process → what it dropped or refused in the last hour → how many. Nothing is judged by it."""
    processes: Reading[Mapping[str, Process]] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A page on which something can be done about what was told."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A state, the sentence that says why, since when the evidence says so, and where it is mended, the first first."""

    state: str
    why: str = ""
    since: float | None = None
    links: Sequence[Link] = ()
