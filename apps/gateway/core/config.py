"""The published configuration as one immutable document: what control writes and every worker reads.

``decode`` is the border: a document that passes it is safe to serve from. Knows nothing of Django,
Redis or files. Durations are seconds, sizes are bytes, times are wall-clock seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from apps.gateway.core import fields

Slug = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z")]
Positive = Annotated[float, Meta(gt=0, le=86_400)]
Rate = Annotated[float, Meta(gt=0, le=1)]

EVERYONE = "*"
Caller = Annotated[str, Meta(pattern=r"^(\*|@?[a-z][a-z0-9-]{0,62})\Z")]
"""A consumer by name, a group as ``@group``, or ``*``: every consumer."""
Scope = Annotated[str, Meta(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,64}\Z")]
"""RFC 6749 section 3.3."""
Subject = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}/[\x21-\x2b\x2d-\x7e]{1,128}\Z")]
"""``issuer/subject``: a token's subject within its issuer's namespace."""


class ConfigError(ValueError):
    """The document does not hold together; the message says where and why, ``field`` which member of it."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Instance(msgspec.Struct, frozen=True):
    """One process of a service. ``url`` is scheme, host and port."""

    name: Slug
    url: str
    weight: Annotated[int, Meta(ge=1, le=100)] = 1


class Breaker(msgspec.Struct, frozen=True):
    """resilience4j's CircuitBreakerConfig under its own names; see apps.gateway.core.breaker."""

    sliding_window_type: Literal["count", "time"] = "count"
    sliding_window_size: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """Calls when the window counts, seconds when it is timed."""
    minimum_calls: Annotated[int, Meta(ge=1, le=10_000)] = 10
    failure_rate: Rate = 0.5
    slow_call_rate: Rate = 1.0
    slow_call_duration: Positive = 60.0
    wait_in_open: Positive = 5.0
    half_open_calls: Annotated[int, Meta(ge=1, le=1000)] = 3
    override: Literal["open", "closed"] | None = None
    """An operator's word: held open or held closed until released."""


class Outlier(msgspec.Struct, frozen=True):
    """When one instance is ejected, in the terms of Envoy's outlier detection; see apps.gateway.core.outlier."""

    consecutive_failures: Annotated[int, Meta(ge=0, le=1000)] = 5
    """Failed attempts in a row that eject an instance. 0: nothing ejects."""
    failure_rate: Rate = 0.5
    """Share of failed attempts over ten seconds that ejects it, whatever their order."""
    base_ejection_time: Positive = 10.0
    """Seconds out of rotation, times the ejections in a row."""
    max_ejected: Rate = 0.5
    """Most of the instances that may be out at a time; of two or more at least one, of one none."""


class Service(msgspec.Struct, frozen=True):
    """An upstream: instances in rotation (disabled ones are left out of the document)."""

    name: Slug
    instances: tuple[Instance, ...] = ()
    balance: Literal["round_robin", "least_request"] = "round_robin"
    breaker: Breaker = Breaker()
    connect_timeout: Positive = 1.0
    idle_connections: Annotated[int, Meta(ge=1, le=10_000)] = 256
    """Most connections kept or in use per instance and worker; past it a request is refused."""
    outlier: Outlier = Outlier()
    panic_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """With fewer than this share of instances fit, all are tried. 0: only when none is fit."""
    max_in_flight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """Most requests in flight per worker; past it, or past what the service keeps up with, they are refused."""
    fleet: bool = False
    """Send the fleet token upstream."""


Fields = dict[str, str]
"""Names and values of header fields; apps.gateway.core.fields says which."""
Names = tuple[str, ...]


class Headers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Header fields changed on the way (apps.gateway.core.transform)."""

    request_set: Annotated[
        Fields,
        Meta(description="Of requests, in place of what the client sent. {consumer} and {request_id} are filled in."),
    ] = {}
    request_add: Annotated[Fields, Meta(description="Of requests, beside what the client sent.")] = {}
    request_remove: Annotated[Names, Meta(description="Of requests, by name.")] = ()
    response_set: Annotated[Fields, Meta(description="Of the service's answers, in place of what it sent.")] = {}
    response_add: Annotated[Fields, Meta(description="Of the service's answers, beside what it sent.")] = {}
    response_remove: Annotated[Names, Meta(description="Of the service's answers, by name.")] = ()

    def __post_init__(self) -> None:
        fields.check("request", self.request_set, self.request_add, self.request_remove)
        fields.check("response", self.response_set, self.response_add, self.response_remove)


class Policies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a route may have beside its own members, each by its settings. None: it has it not.

    Forms, API and documents take their members from here (apps.gateway.described).
    """

    headers: Headers | None = None


class Route(msgspec.Struct, frozen=True):
    """Which requests go where, and under which policies. The longest path wins, then an exact host."""

    name: Slug
    service: Slug
    path: str
    """Normalised, starts with ``/``. A prefix ends at a segment: ``/nexus`` matches ``/nexus/v1``, not ``/nexusx``."""
    match: Literal["prefix", "exact"] = "prefix"
    enabled: bool = True
    """Off: requests find no route here. It stays in the document so that no wider route gets them instead."""
    hosts: tuple[str, ...] = ()
    """Lower case, without port; ``*.example.org`` matches one or more labels. Empty: any."""
    methods: tuple[str, ...] = ()
    """Upper case. Empty: any."""
    strip_prefix: bool = True
    """Forward ``/nexus/v1`` as ``/v1``."""
    auth: tuple[Literal["key", "jwt"], ...] = ("key",)
    """Which credentials prove a caller. Empty: a public route."""
    issuers: tuple[Slug, ...] = ()
    """Whose tokens count as ``jwt``."""
    allow: tuple[Caller, ...] = (EVERYONE,)
    """Which proven callers may call. Control always says it; a document of before it did meant everyone."""
    scopes: tuple[Scope, ...] = ()
    """What a caller's key or token must hold, all of it."""
    forward_credentials: bool = False
    """Send Authorization and X-API-Key on, for a service that authenticates by itself; our own keys never go."""
    rate_limit: Slug | None = None
    timeout: Positive = 15.0
    """From the request's last byte to the response's first, all attempts together."""
    per_try_timeout: Positive | None = None
    """How long one instance is waited for while another could be asked instead. None: half of ``timeout``."""
    idle_timeout: Positive = 30.0
    """Longest silence inside a body, either way."""
    retries: Annotated[int, Meta(ge=0, le=5)] = 1
    """Further attempts for idempotent methods (RFC 9110 section 9.2.2), each on another instance while there is one."""
    max_body: Annotated[int, Meta(ge=0)] = 10 * 1024 * 1024
    policies: Policies = Policies()


class RateLimit(msgspec.Struct, frozen=True):
    """``requests`` per ``period`` seconds, ``burst`` at once, per consumer (per client address on public routes)."""

    name: Slug
    requests: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    period: Positive = 1.0
    burst: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    """None: as many as ``requests``."""


class Consumer(msgspec.Struct, frozen=True):
    """Who calls. ``rate_limit`` overrides the route's."""

    name: Slug
    rate_limit: Slug | None = None
    enabled: bool = True
    groups: tuple[Slug, ...] = ()
    subjects: tuple[Subject, ...] = ()
    """Whose tokens speak for it."""


class Key(msgspec.Struct, frozen=True):
    """An API key: only its keyed hash is known here (hex HMAC-SHA-256 of the key under the key pepper)."""

    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    prefix: str
    consumer: Slug
    expires_at: float | None = None
    scopes: tuple[Scope, ...] = ()
    revoked: bool = False
    """Kept in the document so that a revoked key is told from an unknown one."""


class Issuer(msgspec.Struct, frozen=True):
    """A JWT issuer that routes trust. The algorithm is pinned here, never taken from the token's header."""

    name: Slug
    issuer: str
    audience: str
    algorithms: tuple[Literal["EdDSA", "RS256", "ES256"], ...]
    jwks_url: str
    enabled: bool = True
    consumer_claim: str = "sub"
    """The claim that is the subject."""
    subjects: Literal["mapped", "any"] = "mapped"
    """``mapped``: a subject must be one of a consumer's. ``any``: another calls as ``issuer/subject``, if a slug."""
    leeway: Annotated[float, Meta(ge=0, le=300)] = 5.0
    max_lifetime: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0
    """Longest time from a token's ``iat`` (or now, when it has none) to its ``exp``."""


class Document(msgspec.Struct, frozen=True):
    """Everything a gateway worker needs to serve, and nothing else."""

    revision: int
    created_at: float
    digest: str = ""
    """Hex SHA-256 of the document's content without revision, time and digest."""
    services: tuple[Service, ...] = ()
    routes: tuple[Route, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    keys: tuple[Key, ...] = ()
    issuers: tuple[Issuer, ...] = ()


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Document)


def encode(document: Document) -> bytes:
    """The document as JSON, the same bytes for the same content."""
    return _encoder.encode(document)


def decode(data: bytes) -> Document:
    """Read and check a document; ConfigError for a wrong shape or a name that points nowhere."""
    try:
        document = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error)) from None
    check(document)
    return document


def check(document: Document) -> None:
    """Hold the references together: unique names, and routes, consumers and keys that point at something."""
    services = _unique("service", [service.name for service in document.services])
    limits = _unique("rate limit", [limit.name for limit in document.rate_limits])
    consumers = _unique("consumer", [consumer.name for consumer in document.consumers])
    _unique("route", [route.name for route in document.routes])
    issuers = _unique("issuer", [issuer.name for issuer in document.issuers])
    _unique("issuer", [issuer.issuer for issuer in document.issuers])
    _unique("key", [key.hash for key in document.keys])
    _unique("subject", [name for consumer in document.consumers for name in consumer.subjects], "subjects")
    for route in document.routes:
        if route.service not in services:
            raise ConfigError(f"Route {route.name} points at service {route.service}, which does not exist.", "service")
        if route.rate_limit is not None and route.rate_limit not in limits:
            raise ConfigError(
                f"Route {route.name} names rate limit {route.rate_limit}, which does not exist.", "rate_limit"
            )
        if not route.path.startswith("/"):
            raise ConfigError(f"Route {route.name} has path {route.path!r}; it must start with '/'.", "path")
        if not route.enabled:
            continue  # nobody is let in, whoever it names
        for name in route.issuers:
            if name not in issuers:
                raise ConfigError(f"Route {route.name} names issuer {name}, which does not exist.", "issuers")
        for name in route.allow:
            if name != EVERYONE and not name.startswith("@") and name not in consumers:
                raise ConfigError(f"Route {route.name} allows consumer {name}, which does not exist.", "allow")
    _unambiguous(document.routes)
    for consumer in document.consumers:
        if consumer.rate_limit is not None and consumer.rate_limit not in limits:
            raise ConfigError(f"Consumer {consumer.name} names rate limit {consumer.rate_limit}, which does not exist.")
        for subject in consumer.subjects:
            if subject.partition("/")[0] not in issuers:
                raise ConfigError(f"Consumer {consumer.name} names {subject}, but no issuer is called so.", "subjects")
    for key in document.keys:
        if key.consumer not in consumers:
            raise ConfigError(f"Key {key.prefix} belongs to consumer {key.consumer}, which does not exist.")


def _unambiguous(routes: tuple[Route, ...]) -> None:
    """No two routes may claim the same request: which one won would be an accident, or a takeover without a word.

    Between a path and a longer one, a host and a wildcard, the more exact wins, which anyone can see. A
    route for any method claims each, so beside another on the same path and host it has to name its own.
    """
    claimed: dict[tuple[str, str, str], list[Route]] = {}
    for route in routes:
        if not route.enabled:
            continue
        path = route.path.rstrip("/") if route.match == "prefix" else route.path
        for host in route.hosts or ("",):
            rivals = claimed.setdefault((route.match, path, host), [])
            for rival in rivals:
                shared = set(route.methods) & set(rival.methods) if route.methods and rival.methods else True
                if shared:
                    raise ConfigError(_both(rival, route, host, shared), "path")
            rivals.append(route)


def _both(one: Route, other: Route, host: str, shared: set[str] | bool) -> str:
    methods = f" for {', '.join(sorted(shared))}" if isinstance(shared, set) else ""
    where = f" on {host}" if host else ""
    return (
        f"Routes {one.name} and {other.name} both match {other.path}{where}{methods};"
        " give them different paths, hosts or methods."
    )


def _unique(noun: str, names: list[str], field: str = "") -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"There are two of {noun} {name}.", field)
        seen.add(name)
    return seen
