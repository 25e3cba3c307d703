"""Who may call a route once it is known who calls, and which credentials go on to its service. Pure.

Owns what ``allow`` means: consumers by name, groups as ``@group``, ``*`` for every consumer.
"""

from __future__ import annotations

from collections.abc import Mapping

from apps.gateway.core.auth import BEARER, Denied, Identity
from apps.gateway.core.config import EVERYONE, Document, Route
from apps.gateway.core.headers import RequestHead

Groups = Mapping[str, frozenset[str]]
"""Group → names of the consumers in it."""

KEY_PREFIX = b"mc_"
"""How every API key of ours begins."""


def groups(document: Document) -> dict[str, frozenset[str]]:
    """Who is in which group."""
    found: dict[str, set[str]] = {}
    for consumer in document.consumers:
        for group in consumer.groups:
            found.setdefault(group, set()).add(consumer.name)
    return {group: frozenset(members) for group, members in found.items()}


class Access:
    """What a route asks of a caller, ready for one look at each request."""

    __slots__ = ("callers", "issuers", "scopes")

    def __init__(self, route: Route, groups: Groups) -> None:
        self.issuers = frozenset(route.issuers)
        """Whose tokens it takes."""
        self.scopes = frozenset(route.scopes)
        self.callers: frozenset[str] | None = None
        """The consumers that may call; None: every one."""
        if EVERYONE not in route.allow:
            named = (name for name in route.allow if not name.startswith("@"))
            members = (groups.get(name[1:], frozenset()) for name in route.allow if name.startswith("@"))
            self.callers = frozenset(named).union(*members)

    def admit(self, identity: Identity) -> None:
        """Denied (403): ``consumer_not_allowed``, or ``insufficient_scope`` (RFC 6750 section 3.1)."""
        if self.callers is not None and identity.consumer not in self.callers:
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
    if head.authorization is not None:
        scheme, _, credential = head.authorization.partition(b" ")
        if scheme.lower() == b"bearer" and credential.strip().startswith(KEY_PREFIX):
            head.authorization = None
