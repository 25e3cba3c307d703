"""Whether a request may pass, and as whose: the questions a route asks before anything goes upstream.

Each question is a function that answers or raises Refused; the order in which they are asked is the exchange's.
"""

from __future__ import annotations

from typing import Protocol

from apps.gateway.core.auth import Denied, Identity, missing
from apps.gateway.core.config import Route
from apps.gateway.core.headers import MAX_LOOPS, RequestHead
from apps.gateway.core.routing import Miss, Way
from apps.gateway.core.target import HOSTS
from apps.gateway.plane.table import Table
from services.kit.problem import Problem, Refused

SERVER_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What is spoken here at all; routes may take fewer."""


class Peer(Protocol):
    """Who is at the other end of the connection."""

    address: str
    trusted: bool


class NotAllowed(Refused):
    """405, with the methods that are (RFC 9110 section 15.5.6)."""

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(Problem(405, "method_not_allowed", f"{method} is not allowed here."))
        self.allow = allow


def fields_of(refused: Refused) -> bytes:
    """Header fields that belong to a refusal, as lines ready to send."""
    if isinstance(refused, Denied) and refused.challenge:
        return f"WWW-Authenticate: {refused.challenge}\r\n".encode()
    if isinstance(refused, NotAllowed):
        return f"Allow: {refused.allow}\r\n".encode()
    return b""


def find_way(table: Table, raw: bytes, head: RequestHead, path: str) -> Way:
    """The route for a normalised ``path``."""
    method = raw.decode("latin-1")
    if method == "TRACE":
        # An instance would send back what only it may see: the fleet token, the identity (RFC 9110 section 9.3.8).
        raise NotAllowed(method, SERVER_METHODS)
    routes = table.routes
    host = HOSTS[head.host] if routes.by_host and head.host else ""
    way = routes.match(host, method, path)
    if isinstance(way, Miss):
        if way.allow:
            raise NotAllowed(method, ", ".join(way.allow))
        raise Refused(Problem(404, "no_route", "No route leads there."))
    if routes.nested and routes.disputed(host, method, path, way):
        raise Refused(Problem(400, "path_invalid", "Servers differ in how they read this path: write it plainly."))
    return way


def refuse_loops(head: RequestHead) -> None:
    """A request that keeps coming back is a loop between gateways."""
    if head.via >= MAX_LOOPS:
        raise Refused(Problem(508, "loop", f"The request has passed this gateway {MAX_LOOPS} times already."))


def refuse_websocket(head: RequestHead) -> None:
    """Protocol switching has its place here; until it comes, a WebSocket is told so. Other offers are ignored."""
    offers = (head.upgrade or b"").lower().split(b",")
    if b"websocket" in {offer.strip(b" \t").partition(b"/")[0] for offer in offers}:
        raise Refused(Problem(501, "upgrade_unsupported", "This gateway does not carry WebSockets yet."))


def identify(table: Table, way: Way, head: RequestHead, now: float) -> Identity:
    """Who calls. What proved it goes no further: the instance learns it by X-Consumer."""
    accepted = way.route.auth
    if head.key is not None and "key" in accepted:
        return table.keyring.identify(head.key, now)
    credentials = head.authorization
    if credentials is None or credentials[:7].lower() != b"bearer ":
        raise missing(accepted)
    token = credentials[7:].strip()
    if token.startswith(b"mc_") and "key" in accepted:
        return table.keyring.identify(token, now)
    if "jwt" in accepted:
        return table.tokens.identify(token, now, way.access.issuers)
    raise missing(accepted)


def check_body(route: Route, head: RequestHead, size: int) -> None:
    """What the request says of its body, and what has come of it."""
    if head.expect is not None and head.expect.lower() != b"100-continue":
        raise Refused(Problem(417, "expectation_failed", "Only 100-continue can be expected."))
    if size > route.max_body or (head.length is not None and int(head.length) > route.max_body):
        raise Refused(Problem(413, "body_too_large", f"The body is over {route.max_body} bytes."))


def last_hop(head: RequestHead) -> bool:
    """Whether Max-Forwards ends the request here; else one hop is counted off (RFC 9110 section 7.6.2)."""
    if head.hops is None or not head.hops.isdigit() or len(head.hops) > 18:
        raise Refused(Problem(400, "framing", "Max-Forwards is not a number."))
    hops = int(head.hops)
    head.hops = b"%d" % (hops - 1)
    return hops == 0


def subject(peer: Peer, head: RequestHead) -> str:
    """Whom a public route's limit counts: the peer, or whom a trusted peer speaks for."""
    if peer.trusted and head.forwarded is not None:
        return head.forwarded.rpartition(b",")[2].strip()[:64].decode("ascii", "replace")
    return peer.address


def own_key(head: RequestHead) -> bytes:
    """The caller's own key as a line, unless it was meant for us alone."""
    return b"X-API-Key: %b\r\n" % (head.key or b"") if b"x-api-key" not in head.confined else b""
