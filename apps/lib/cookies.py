"""The names of control's own cookies. A browser sends them to every port of the host, gateways included.

So a gateway has to know them too: there they go to no service and come from none.
"""

from __future__ import annotations

SESSION = "mc_session"
CSRF = "mc_csrf"
DEVICE = "mc_device"
HOST = "__Host-"
"""With TLS: a browser keeps such a cookie for this very host, sent and set over TLS alone (RFC 6265bis 4.1.3.2)."""


def named(name: str, *, tls: bool) -> str:
    """The cookie's full name."""
    return HOST + name if tls else name


OURS = frozenset(named(name, tls=tls) for name in (SESSION, CSRF, DEVICE) for tls in (False, True))
"""Every name that one of them may have."""
