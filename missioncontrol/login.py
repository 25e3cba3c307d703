"""Admin's login: the pages' own, so that passwords can't be guessed at any speed by its side."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from apps.people.login import Login


class AdminLogin(Login):
    """Who is logged in and still may not enter is told so, not sent round in a circle."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.user.is_authenticated and not admin.site.has_permission(request):
            raise PermissionDenied("Your account may not open admin: ask an admin to mark it as staff.")
        return super().dispatch(request, *args, **kwargs)
