"""What a worker serves from: one published document, compiled, with the living parts that outlast it.

A ``Table`` is replaced whole when a revision arrives. Breakers and connections belong to services and
instances, so they are carried over to the next table as long as those keep their name and address.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping
from typing import Literal, Protocol
from urllib.parse import urlsplit

from apps.gateway.core import config
from apps.gateway.core.auth import Keyring, Tokens
from apps.gateway.core.balance import Rotation, in_rotation
from apps.gateway.core.breaker import Breaker, Change
from apps.gateway.core.outlier import Ejection, Outliers
from apps.gateway.core.overload import Gate
from apps.gateway.core.routing import Routes
from apps.gateway.plane.policies.order import compiled
from apps.gateway.plane.policies.parts import KeyStore, Limiter, Parts
from apps.gateway.plane.upstream import Guard, Instance
from apps.gateway.plane.writes import Writes

UNHEALTHY = "unhealthy"


class Listener(Protocol):
    """Who hears what a service's guards decide."""

    def changed(self, service: str, change: Change) -> None: ...

    def ejected(self, service: str, ejection: Ejection) -> None: ...

    def panicked(self, service: str, panic: bool) -> None: ...


class Service:
    """A service as a worker knows it."""

    __slots__ = (
        "balance",
        "breaker",
        "fleet",
        "gate",
        "instances",
        "listener",
        "name",
        "outliers",
        "panic",
        "panic_threshold",
        "rotation",
    )

    def __init__(self, spec: config.Service, listener: Listener, now: float) -> None:
        name = self.name = spec.name
        self.breaker = Breaker(spec.breaker, lambda change: listener.changed(name, change), now)
        self.outliers = Outliers(spec.outlier, self._ejected, now)
        self.gate = Gate(spec.max_in_flight)
        self.listener = listener
        self.fleet = False
        self.instances: dict[str, Instance] = {}
        self.balance: Literal["round_robin", "least_request"] = "round_robin"
        self.rotation: Rotation[Instance] = Rotation((), "round_robin", random.randrange)
        self.panic_threshold = 0.0
        self.panic = False
        """Too few instances look fit to believe it: all are in rotation."""

    def heed(self, verdicts: Mapping[str, str]) -> None:
        """Leave out whose last verdict is unhealthy."""
        self.outliers.suspects = {key for key in self.outliers.marks if verdicts.get(key) == UNHEALTHY}
        self.rotate()

    def rotate(self) -> None:
        """Choose again who is in rotation."""
        targets, panic = in_rotation(list(self.instances.values()), self._fit, self.panic_threshold)
        if panic != self.panic:
            self.panic = panic
            self.listener.panicked(self.name, panic)
        # Not for secrets: two choices among instances.
        self.rotation = Rotation(targets, self.balance, random.randrange)

    def _ejected(self, ejection: Ejection) -> None:
        self.rotate()
        self.listener.ejected(self.name, ejection)

    def _fit(self, instance: Instance) -> bool:
        outliers = self.outliers
        return instance.key not in outliers.suspects and not outliers.marks[instance.key].until


class Table:
    """One revision, ready to serve."""

    __slots__ = ("document", "limits", "routes", "services", "tokens")

    def __init__(self, document: config.Document, services: dict[str, Service], parts: Parts) -> None:
        self.document = document
        self.routes = Routes(document, lambda route: compiled(route, parts))
        self.services = services
        self.tokens = parts.tokens
        self.limits = {limit.name: limit for limit in document.rate_limits}


class Builder:
    """Makes tables, handing living services on from one to the next."""

    def __init__(
        self,
        pepper: bytes,
        fleet_token: str,
        key_sets: KeyStore,
        limiter: Limiter,
        listener: Listener,
        writes: Writes,
        guard: Guard | None = None,
    ) -> None:
        self._pepper = pepper
        self._fleet_token = fleet_token
        self._key_sets = key_sets
        self._limiter = limiter
        self._listener = listener
        self._writes = writes
        self._guard = guard
        self._tls: ssl.SSLContext | None = None

    def build(self, document: config.Document, before: Table | None, verdicts: Mapping[str, str]) -> Table:
        """The table of ``document``. Services that are gone are retired once the new table is in use."""
        known = before.services if before is not None else {}
        services = {spec.name: self._service(spec, known.get(spec.name), verdicts) for spec in document.services}
        for name, service in known.items():
            if name not in services:
                for instance in service.instances.values():
                    instance.retire()
        return Table(document, services, self._parts(document))

    def _parts(self, document: config.Document) -> Parts:
        """What the policies of ``document`` are bound to."""
        return Parts(
            keyring=Keyring(document, self._pepper),
            tokens=Tokens(document, self._key_sets.sets),
            key_sets=self._key_sets,
            limiter=self._limiter,
            limited_callers=any(consumer.rate_limit is not None for consumer in document.consumers),
        )

    def _service(self, spec: config.Service, service: Service | None, verdicts: Mapping[str, str]) -> Service:
        now = time.monotonic()
        if service is None:
            service = Service(spec, self._listener, now)
        elif service.breaker.config != spec.breaker:
            service.breaker.configure(spec.breaker, now)
        service.gate.configure(spec.max_in_flight)
        service.panic_threshold = spec.panic_threshold
        service.fleet = spec.fleet
        service.balance = spec.balance
        known, service.instances = service.instances, {}
        for each in spec.instances:
            key = f"{spec.name}/{each.name}"
            url = urlsplit(each.url)
            port = url.port or (443 if url.scheme == "https" else 80)
            instance = known.pop(each.name, None)
            if instance is not None and (instance.host, instance.port, instance.tls) != (
                url.hostname,
                port,
                url.scheme == "https",
            ):
                instance.retire()
                instance = None
                service.outliers.forget(key)
            if instance is None:
                tls = self._context() if url.scheme == "https" else None
                instance = Instance(key, url.hostname or "", port, tls=tls, guard=self._guard, writes=self._writes)
            instance.weight = each.weight
            instance.limit = spec.idle_connections
            instance.connect_timeout = spec.connect_timeout
            instance.head = f"Host: {url.netloc}\r\n".encode()
            if spec.fleet:
                instance.head += f"X-Fleet-Token: {self._fleet_token}\r\n".encode()
            service.instances[each.name] = instance
        for instance in known.values():
            instance.retire()
        service.outliers.configure(spec.outlier, [each.key for each in service.instances.values()], now)
        service.heed(verdicts)
        return service

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls
