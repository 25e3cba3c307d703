"""What a request is for: its host and its target, read once and checked (RFC 9112 section 3.2).

A host that is not one, or two that could be meant, is refused here, so that routing, X-Forwarded-Host and whoever
reads it upstream speak of the same thing.
"""

from __future__ import annotations

import ipaddress
import re

from apps.gateway.core.headers import RequestHead
from apps.gateway.core.paths import MAX_TARGET
from services.kit.problem import Problem, Refused

_HOST = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?",
)
"""As RFC 3986 section 3.2.2 says, but without the comma, which no name has: whoever reads X-Forwarded-Host as a list
would take one of two hosts, where the route was chosen by both as one."""


class Hosts(dict[bytes, str]):
    """Host values as they were sent → the name they mean: lower case, no port, no trailing dot.

    Learns what it has checked, up to a bound. Refused (400) for what RFC 9110 section 4.2 does not allow.
    """

    def __missing__(self, value: bytes) -> str:
        found = _HOST.fullmatch(value)
        if found is None or int(found[2] or 0) > 65_535:
            raise _refused("The host is not valid.")
        name = found[1].decode("ascii").lower()
        if name.startswith("["):
            try:
                ipaddress.IPv6Address(name[1:-1])
            except ValueError:
                raise _refused("The host is not valid.") from None
        else:
            name = name.rstrip(".")
        if len(self) < 1024 and len(value) < 256:
            self[value] = name
        return name


HOSTS = Hosts()


def _refused(detail: str, failure: str = "framing", status: int = 400) -> Refused:
    return Refused(Problem(status, failure, detail))


def read_target(head: RequestHead) -> None:
    """Set ``path``, ``query`` and ``host`` of ``head``; the path is ``*`` for the server as a whole.

    Refused: 400 without a valid Host in HTTP/1.1, 414 for a target that is too long.
    """
    method, target = head.method, head.target
    if len(target) > MAX_TARGET:
        raise _refused(f"The request target is over {MAX_TARGET} bytes.", "target_too_long", 414)
    host = head.host
    if host:
        HOSTS[host]  # says no if it is none
    elif not head.old:
        raise _refused("The request has no Host field.")
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            head.path = target  # the asterisk form (RFC 9112 section 3.2.4)
            return
        target = _absolute(target, head)
    path, mark, query = target.partition(b"?")
    head.path = path
    head.query = mark + query


def _absolute(target: bytes, head: RequestHead) -> bytes:
    """The absolute form: its authority is the host, whatever Host says (RFC 9112 section 3.2.2)."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in {b"http", b"https"}:
        raise _refused("The request target must be a path that starts with '/'.", "path_invalid")
    end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    head.host = rest[:end]
    HOSTS[head.host]
    path = rest[end:]
    return path if path.startswith(b"/") else b"/" + path
