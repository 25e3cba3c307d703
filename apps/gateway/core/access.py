"""Who may call a route once it is known who calls, and which credentials go on to its service. Pure.

Owns what ``allow`` means: consumers by name, groups as ``@group``, ``*`` for every consumer.
"""

from __future__ import annotations

from apps.gateway.core.auth import BEARER, Denied, Identity
from apps.gateway.core.config import EVERYONE, Route
from apps.gateway.core.headers import RequestHead

KEY_PREFIX = b"mc_"
"""How every API key of ours begins."""


class Access:
    """What a route asks of a caller, ready for one look at each request."""

    __slots__ = ("anyone", "callers", "scopes")

    def __init__(self, route: Route) -> None:
        self.callers = frozenset(route.allow)
        self.scopes = frozenset(route.scopes)
        self.anyone = EVERYONE in self.callers and not self.scopes
        """Every proven caller may call, so nobody needs to be asked."""

    def admit(self, identity: Identity) -> None:
        """Denied (403): ``consumer_not_allowed``, or ``insufficient_scope`` (RFC 6750 section 3.1)."""
        if self.callers.isdisjoint(identity.names):
            raise Denied("consumer_not_allowed", f"{identity.consumer} may not call this route.", 403)
        if not self.scopes <= identity.scopes:
            lacking = " ".join(sorted(self.scopes - identity.scopes))
            denied = Denied("insufficient_scope", f"This route asks for the scope {lacking} as well.", 403)
            denied.challenge = f'{BEARER}, error="insufficient_scope", scope="{" ".join(sorted(self.scopes))}"'
            raise denied


def sent_on(head: RequestHead) -> bytes:
    """The client's credentials as lines, ready to send, for a service that authenticates by itself.

    Without keys of ours, which are for the gateway alone (the service learns their owner by X-Consumer), and without
    what ``Connection`` keeps to this hop.
    """
    key, authorization, lines = head.key, head.authorization, b""
    if key is not None and not key.startswith(KEY_PREFIX) and b"x-api-key" not in head.confined:
        lines += b"X-API-Key: %b\r\n" % key
    if (
        authorization is not None
        and b"authorization" not in head.confined
        and not any(word.startswith(KEY_PREFIX) for word in authorization.split())
    ):
        lines += b"Authorization: %b\r\n" % authorization
    return lines


# -- for people -------------------------------------------------------------------------------------------

CREDENTIALS = {"key": "API key", "jwt": "JWT"}


def credentials_in_words(route: Route) -> str:
    """What proves a caller."""
    if not route.auth:
        return "none: anyone may call"
    ways = " or ".join(CREDENTIALS[way] for way in route.auth)
    return f"{ways} of {', '.join(route.issuers)}" if route.issuers else ways


def callers_in_words(route: Route) -> str:
    """Who may call; empty for a public route, of which its credentials tell."""
    if not route.auth:
        return ""
    who = "every consumer" if EVERYONE in route.allow else ", ".join(route.allow) or "nobody"
    return f"{who}, with scope {' '.join(route.scopes)}" if route.scopes else who


def forwards_in_words(route: Route) -> str:
    """Which credentials go on; empty for none, as is usual."""
    return "Authorization and X-API-Key, but for keys issued here" if route.forward_credentials else ""
