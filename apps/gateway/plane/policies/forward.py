"""A client's credentials for a service that authenticates by itself. Without this policy none goes on."""

from __future__ import annotations

from apps.gateway.core.access import forwards_in_words, sent_on
from apps.gateway.core.chain import Call
from apps.gateway.core.config import Route
from apps.gateway.plane.policies.parts import NOTHING, Bound, Parts, Policy


def bind(route: Route, parts: Parts) -> Bound:
    """Where the route says so."""
    return Bound(_ask) if route.forward_credentials else NOTHING


def _ask(call: Call) -> None:
    call.credentials += sent_on(call.head)


POLICY = Policy("forward", "Credentials sent on", bind, lambda route, limits: forwards_in_words(route))
