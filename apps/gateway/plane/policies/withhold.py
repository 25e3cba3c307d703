"""Which of a client's credentials go on to the service: none, or those that are not ours."""

from __future__ import annotations

from apps.gateway.core.access import forwards_in_words, without_ours
from apps.gateway.core.chain import Call
from apps.gateway.core.config import Route
from apps.gateway.plane.policies.parts import Bound, Parts, Policy


def bind(route: Route, parts: Parts) -> Bound:
    """On every route."""
    return Bound(_ours if route.forward_credentials else _all)


def _all(call: Call) -> None:
    head = call.head
    head.key = head.authorization = None


def _ours(call: Call) -> None:
    without_ours(call.head)


POLICY = Policy("withhold", "Credentials sent on", bind, lambda route, limits: forwards_in_words(route))
