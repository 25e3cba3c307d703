"""Who may call a route once it is known who calls, and which credentials go on to its service. Pure.

Owns what ``allow`` means: consumers by name, groups as ``@group``, ``*`` for every consumer.
"""

from __future__ import annotations

from apps.gateway.core.auth import BEARER, Denied, Identity
from apps.gateway.core.config import Route
from apps.gateway.core.headers import RequestHead

KEY_PREFIX = b"mc_"
"""How every API key of ours begins."""


class Access:
    """What a route asks of a caller, ready for one look at each request."""

    __slots__ = ("callers", "issuers", "scopes")

    def __init__(self, route: Route) -> None:
        self.callers = frozenset(route.allow)
        self.issuers = frozenset(route.issuers)
        """Whose tokens it takes."""
        self.scopes = frozenset(route.scopes)

    def admit(self, identity: Identity) -> None:
        """Denied (403): ``consumer_not_allowed``, or ``insufficient_scope`` (RFC 6750 section 3.1)."""
        if self.callers.isdisjoint(identity.names):
            raise Denied("consumer_not_allowed", f"{identity.consumer} may not call this route.", 403)
        if not self.scopes <= identity.scopes:
            lacking = " ".join(sorted(self.scopes - identity.scopes))
            denied = Denied("insufficient_scope", f"This route asks for the scope {lacking} as well.", 403)
            denied.challenge = f'{BEARER}, error="insufficient_scope", scope="{" ".join(sorted(self.scopes))}"'
            raise denied


def withhold(head: RequestHead, route: Route) -> None:
    """Take the client's credentials out of what goes on, all of them unless the route says otherwise.

    A key of ours is for the gateway alone and never goes on: the service learns its owner by X-Consumer.
    """
    if not route.forward_credentials:
        head.key = head.authorization = None
        return
    if head.key is not None and head.key.startswith(KEY_PREFIX):
        head.key = None
    if head.authorization is not None and any(word.startswith(KEY_PREFIX) for word in head.authorization.split()):
        head.authorization = None
