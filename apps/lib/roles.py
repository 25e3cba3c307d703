"""The three roles and the checks that edges make of them.

viewer reads; operator also acts (open a breaker, drain an instance, redrive); admin also changes
configuration, consumers and keys. A role holds all that the one before it holds. Roles are Django
groups, so admin assigns them; a superuser is an admin.

A token may be granted less than its owner holds: a lower role, reading alone, some areas of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission

from services.kit.problem import Problem, Refused

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"
RANK = {VIEWER: 1, OPERATOR: 2, ADMIN: 3}


def rank(user: Any) -> int:
    """0 for nobody, else the highest of the user's roles (cached on the user object)."""
    if user is None or not user.is_authenticated or not user.is_active:
        return 0
    if user.is_superuser:
        return RANK[ADMIN]
    cached = getattr(user, "_role_rank", None)
    if cached is None:
        names = user.groups.values_list("name", flat=True)
        cached = max((RANK.get(name, 0) for name in names), default=0)
        user._role_rank = cached
    return int(cached)


def held(user: Any) -> str:
    """The highest of the user's roles by name; the lowest there is for nobody, who holds none."""
    return next((role for role, needed in RANK.items() if needed == rank(user)), VIEWER)


def has(user: Any, role: str) -> bool:
    """Whether ``user`` holds ``role`` or one above it."""
    return rank(user) >= RANK[role]


def acts_as(request: Any, role: str) -> bool:
    """Whether whoever asks holds ``role`` or one above it, and asks by nothing that holds less."""
    grant = getattr(getattr(request, "auth", None), "grant", None)
    return has(request.user, role) and (grant is None or RANK[grant.role] >= RANK[role])


API = "/api/v1/"
AREAS: dict[str, frozenset[str]] = {
    "services": frozenset({"services", "instances"}),
    "routes": frozenset({"routes"}),
    "policies": frozenset({"rate-limits", "breaker-policies", "service-policies"}),
    "consumers": frozenset({"consumers", "keys", "issuers"}),
    "breakers": frozenset({"breakers"}),
    "gateway": frozenset({"workers"}),
    "health": frozenset({"health", "health-checks", "breaker-transitions"}),
    "events": frozenset({"events"}),
    "traces": frozenset({"traces"}),
    "revisions": frozenset({"revisions"}),
    "live": frozenset({"live"}),
    "tokens": frozenset({"tokens"}),
}
"""The areas of the API, which are its tags, by the first segments of their addresses."""

AREA_OF = {segment: area for area, segments in AREAS.items() for segment in segments}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token may do at most; its owner's own roles bound it further, as they are at the moment."""

    role: str
    read_only: bool = False
    areas: frozenset[str] = frozenset()
    """Empty: all of them."""

    def covers(self, other: Grant) -> bool:
        """Whether ``other`` allows nothing that this one doesn't."""
        areas = not self.areas or (bool(other.areas) and other.areas <= self.areas)
        return RANK[other.role] <= RANK[self.role] and areas and (other.read_only or not self.read_only)

    def refusal(self, path: str, *, safe: bool, needed: str) -> str:
        """Why a request is beyond this grant, as a sentence, or nothing. An unknown area is beyond any list."""
        area = AREA_OF.get(path.removeprefix(API).partition("/")[0])
        if self.read_only and not safe:
            return "This token only reads."
        if self.areas and area not in self.areas:
            return f"This token is for {', '.join(sorted(self.areas))} alone."
        if RANK[self.role] < RANK[needed]:
            return f"This token acts as {self.role}, and this needs {needed}."
        return ""


class _Needs(BasePermission):
    read = VIEWER
    write = ADMIN

    def has_permission(self, request: Any, view: Any) -> bool:
        safe = request.method in SAFE_METHODS
        needed = self.read if safe else self.write
        if not has(request.user, needed):
            return False
        grant = getattr(request.auth, "grant", None)
        beyond = grant.refusal(request.path, safe=safe, needed=needed) if grant else ""
        if beyond:
            raise Refused(Problem(403, "beyond_token", beyond))
        return True


class ViewerReadsAdminWrites(_Needs):
    """Configuration: anyone with a role reads it, admins change it."""


class ViewerReadsOperatorActs(_Needs):
    """Operations: anyone with a role looks, operators and admins act."""

    write = OPERATOR


class EveryoneTheirOwn(_Needs):
    """What belongs to whoever asks: anyone with a role."""

    write = VIEWER


class AdminOnly(_Needs):
    """Consumers and keys: admins alone."""

    read = ADMIN
