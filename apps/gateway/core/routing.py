"""Which route a request takes: compiled once per revision, matched in time that the number of routes does not touch.

Owns the table's shape and the order of precedence: the longest path, then an exact host over a
wildcard over any, then the method. Knows nothing of limits, credentials or connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from apps.gateway.core.chain import UNPOLICED, Chain
from apps.gateway.core.config import Document, Route
from apps.gateway.core.paths import readings

Hosts = dict[str, "Methods"]


class Way:
    """A route, ready for use."""

    __slots__ = ("_cut", "asks", "route", "tells")

    def __init__(self, route: Route, chain: Chain = UNPOLICED) -> None:
        self.route = route
        self.asks, self.tells = chain
        """Its policies' hooks on requests and on answers."""
        self._cut = len(route.path.rstrip("/")) if route.strip_prefix and route.match == "prefix" else 0

    def forward(self, path: str) -> str:
        """The path that the upstream sees: the prefix is cut off when the route says so."""
        return path[self._cut :] or "/"


@dataclass(frozen=True, slots=True)
class Miss:
    """No route. ``allow`` names the methods that other requests for this path may use (405), or nothing (404)."""

    allow: tuple[str, ...] = ()


NO_ROUTE = Miss()
CLOSED = Miss()
"""A route that is off: nothing else gets its requests."""


@dataclass(slots=True)
class Methods:
    """The routes of one path and host, by method; ``any`` takes the methods that nobody names."""

    named: dict[str, Way | Miss] = field(default_factory=dict)
    any: Way | Miss | None = None


@dataclass(slots=True)
class Slot:
    """All routes of one path, by host, most exact first."""

    exact: Hosts = field(default_factory=dict)
    wildcard: Hosts = field(default_factory=dict)
    """``*.example.org`` under ``example.org``."""
    any: Methods | None = None


@dataclass(slots=True)
class Node:
    """One segment of the prefix tree."""

    children: dict[str, Node] = field(default_factory=dict)
    slot: Slot | None = None


class Routes:
    """An immutable index over a document's routes."""

    __slots__ = ("_exact", "_folded", "_root", "by_host", "nested")

    def __init__(self, document: Document, chain_of: Callable[[Route], Chain] = lambda route: UNPOLICED) -> None:
        """``chain_of`` a route is asked once, unless the route is off."""
        self._exact: dict[str, Slot] = {}
        self._root = Node()
        self.by_host = any(route.hosts for route in document.routes)
        """False when no route names a host, so callers may skip reading it."""
        for route in sorted(document.routes, key=lambda route: not route.enabled):
            way = Way(route, chain_of(route)) if route.enabled else CLOSED
            slot = self._exact.setdefault(route.path, Slot()) if route.match == "exact" else self._prefix(route.path)
            for methods in _places(slot, route.hosts):
                if way is CLOSED and isinstance(methods.any, Way):
                    continue  # who took over the very place may have it
                for method in route.methods:
                    methods.named.setdefault(method, way)
                if not route.methods and methods.any is None:
                    methods.any = way
        lower = tuple(msgspec.structs.replace(route, path=route.path.lower()) for route in document.routes)
        folded = None if lower == document.routes else Routes(msgspec.structs.replace(document, routes=lower))
        self._folded = folded
        """The same in lower case; None where it is so already."""
        self.nested = any(len((folded or self)._candidates(route.path)) > 1 for route in lower)
        """Whether a route lies within another, so that one writing of a path may lead to either."""

    def _prefix(self, path: str) -> Slot:
        node = self._root
        for segment in path.strip("/").split("/") if path.strip("/") else ():
            node = node.children.setdefault(segment, Node())
        if node.slot is None:
            node.slot = Slot()
        return node.slot

    def match(self, host: str, method: str, path: str) -> Way | Miss:
        """The route for a normalised ``path``; ``host`` is lower case and without port."""
        refused: Methods | None = None
        others: list[Methods] = []
        for slot in self._candidates(path):
            for methods in _by_host(slot, host):
                way = methods.named.get(method) or methods.any
                if way is not None:
                    return way
                if refused is None:
                    refused = methods
                else:
                    others.append(methods)
        if refused is None:
            return NO_ROUTE
        named = [item for methods in (refused, *others) for item in methods.named.items()]
        return Miss(tuple(sorted({name for name, way in named if way is not CLOSED})))

    def disputed(self, host: str, method: str, path: str, way: Way) -> bool:
        """Whether a server less strict than we are would take ``path``, which is ``way``'s, for another route's.

        The one that it names may ask for more. Case alone makes a difference only toward a longer path, so that
        routes may differ in case.
        """
        others = readings(path)
        if not others and self._folded is None and path == path.lower():
            return False
        folded = self._folded or self
        for other in (path, *others):
            found = self.match(host, method, other)
            if found is CLOSED or (isinstance(found, Way) and found is not way):
                return True
            found = folded.match(host, method, other.lower())
            if found is CLOSED or (isinstance(found, Way) and _length(found) > _length(way)):
                return True
        return False

    def _candidates(self, path: str) -> list[Slot]:
        """Slots whose path covers ``path``, longest first."""
        found: list[Slot] = []
        node = self._root
        if node.slot is not None:
            found.append(node.slot)
        for segment in path[1:].split("/"):
            child = node.children.get(segment)
            if child is None:
                break
            node = child
            if node.slot is not None:
                found.append(node.slot)
        exact = self._exact.get(path)
        if exact is not None:
            found.append(exact)
        found.reverse()
        return found


def _length(way: Way) -> int:
    return len(way.route.path.rstrip("/"))


def _places(slot: Slot, hosts: tuple[str, ...]) -> list[Methods]:
    if not hosts:
        if slot.any is None:
            slot.any = Methods()
        return [slot.any]
    places = []
    for host in hosts:
        if host.startswith("*."):
            places.append(slot.wildcard.setdefault(host[2:], Methods()))
        else:
            places.append(slot.exact.setdefault(host, Methods()))
    return places


def _by_host(slot: Slot, host: str) -> list[Methods]:
    if not slot.exact and not slot.wildcard:
        return [slot.any] if slot.any is not None else []
    found = []
    exact = slot.exact.get(host)
    if exact is not None:
        found.append(exact)
    if slot.wildcard:
        _, dot, parent = host.partition(".")
        while dot:  # the longest suffix is the most exact: *.a.example.org before *.example.org
            wildcard = slot.wildcard.get(parent)
            if wildcard is not None:
                found.append(wildcard)
            _, dot, parent = parent.partition(".")
    if slot.any is not None:
        found.append(slot.any)
    return found


class Match(Protocol):
    """The part of a route that says which requests are its own; a document's or a database's."""

    path: Any
    match: Any
    hosts: Any
    methods: Any


def yields_to(one: Match, other: Match) -> bool:
    """Whether ``other``, on the same path but more exact, gets requests that ``one`` matches as well."""
    if one.path.rstrip("/") != other.path.rstrip("/"):
        return False
    if one.methods and other.methods and not set(one.methods) & set(other.methods):
        return False
    pairs = [(mine, theirs) for mine in one.hosts or ("",) for theirs in other.hosts or ("",)]
    if one.match != other.match:
        return bool(other.match == "exact") and any(_covers(*pair) or _covers(*pair[::-1]) for pair in pairs)
    return any(mine != theirs and _covers(mine, theirs) for mine, theirs in pairs)


def _covers(host: str, other: str) -> bool:
    """Whether each name that ``other`` stands for is one of ``host``'s; an empty one stands for every name."""
    return not host or host == other or (host.startswith("*.") and other.removeprefix("*").endswith(host[1:]))
