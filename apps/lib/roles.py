"""The three roles and the checks that edges make of them.

viewer reads; operator also acts (open a breaker, drain an instance, redrive); admin also changes
configuration, consumers and keys. A role holds all that the one before it holds. Roles are Django
groups, so admin assigns them; a superuser is an admin.
"""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission

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


def has(user: Any, role: str) -> bool:
    """Whether ``user`` holds ``role`` or one above it."""
    return rank(user) >= RANK[role]


class _Needs(BasePermission):
    read = VIEWER
    write = ADMIN

    def has_permission(self, request: Any, view: Any) -> bool:
        return has(request.user, self.read if request.method in SAFE_METHODS else self.write)


class ViewerReadsAdminWrites(_Needs):
    """Configuration: anyone with a role reads it, admins change it."""


class ViewerReadsOperatorActs(_Needs):
    """Operations: anyone with a role looks, operators and admins act."""

    write = OPERATOR


class AdminOnly(_Needs):
    """Consumers and keys: admins alone."""

    read = ADMIN
