"""What a request says of its body, and what has come of it by now; what comes later the exchange counts."""

from __future__ import annotations

from apps.gateway.core.chain import Call
from apps.gateway.core.config import Route
from apps.gateway.core.size import expectation_failed, in_words, too_large
from apps.gateway.plane.policies.parts import Bound, Parts, Policy


def bind(route: Route, parts: Parts) -> Bound:
    """On every route: there is no size without a bound."""
    most = route.max_body

    def ask(call: Call) -> None:
        head = call.head
        if head.expect is not None and head.expect.lower() != b"100-continue":
            raise expectation_failed()
        if call.body_size > most or (head.length is not None and int(head.length) > most):
            raise too_large(most)

    return Bound(ask)


POLICY = Policy("size", "Size", bind, lambda route, limits: in_words(route))
