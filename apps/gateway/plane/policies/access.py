"""Which proven callers may call: consumers, groups, scopes."""

from __future__ import annotations

from apps.gateway.core.access import Access, callers_in_words
from apps.gateway.core.chain import Call
from apps.gateway.core.config import Route
from apps.gateway.plane.policies.parts import NOTHING, Bound, Parts, Policy


def bind(route: Route, parts: Parts) -> Bound:
    """A public route has no callers to choose from, and one for everyone has nothing to ask."""
    access = Access(route)
    if not route.auth or access.anyone:
        return NOTHING
    admit = access.admit

    def ask(call: Call) -> None:
        identity = call.identity
        assert identity is not None  # noqa: S101 - credentials come first
        admit(identity)

    return Bound(ask)


POLICY = Policy("access", "Who may call", bind, lambda route, limits: callers_in_words(route))
