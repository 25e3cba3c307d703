"""What is settled about a request by the protocol alone, whatever its route's policies are.

Each question is a function that answers or raises Refused; the order in which they are asked is the exchange's.
"""

from __future__ import annotations

from apps.gateway.core.auth import Denied
from apps.gateway.core.headers import MAX_LOOPS, RequestHead
from apps.gateway.core.routing import Miss, Way
from apps.gateway.core.target import HOSTS
from apps.gateway.plane.table import Table
from services.kit.problem import Problem, Refused

SERVER_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What is spoken here at all; routes may take fewer."""


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


def last_hop(head: RequestHead) -> bool:
    """Whether Max-Forwards ends the request here; else one hop is counted off (RFC 9110 section 7.6.2)."""
    if head.hops is None or not head.hops.isdigit() or len(head.hops) > 18:
        raise Refused(Problem(400, "framing", "Max-Forwards is not a number."))
    hops = int(head.hops)
    head.hops = b"%d" % (hops - 1)
    return hops == 0
