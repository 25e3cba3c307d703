"""Header fields that a route sets, adds or removes: of requests on the way up, of answers on the way back."""

from __future__ import annotations

from binascii import hexlify

from apps.gateway.core.chain import Call
from apps.gateway.core.config import Route
from apps.gateway.core.headers import ResponseHead
from apps.gateway.core.transform import Change, in_words
from apps.gateway.plane.policies.parts import NOTHING, Bound, Parts, Policy


def bind(route: Route, parts: Parts) -> Bound:
    """A side on which nothing changes has no hook."""
    settings = route.policies.headers
    if settings is None:
        return NOTHING
    up = Change(settings.request_set, settings.request_add, settings.request_remove)
    back = Change(settings.response_set, settings.response_add, settings.response_remove)

    def ask(call: Call) -> None:
        head = call.head
        head.lines = up.apply(head.lines)
        if up_open:
            up.fill(head.lines, *_known_of(call))

    def tell(call: Call, head: ResponseHead) -> None:
        head.lines = back.apply(head.lines)
        if back_open:
            back.fill(head.lines, *_known_of(call))

    up_open, back_open = up.open, back.open
    return Bound(ask if up else None, tell if back else None)


def _known_of(call: Call) -> tuple[str, str]:
    """Who calls, and the request's id: its trace and, within that, its span here."""
    consumer = call.identity.consumer if call.identity is not None else ""
    return consumer, f"{call.trace_id.decode()}-{hexlify(call.span_id).decode()}"


POLICY = Policy("headers", "Headers", bind, lambda route, limits: in_words(route))
