"""Who may see a page. Knows no page."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.lib import roles

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """A page for anyone with a role; who has none is told so, and who is a stranger logs in first."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not roles.has(request.user, roles.VIEWER):
            return render(
                request,
                "message.html",
                {
                    "title": "You have no role yet",
                    "detail": "Ask an admin to make you a viewer, an operator or an admin; then reload this page.",
                    "ask_logout": True,
                },
                status=403,
            )
        return view(request, *args, **kwargs)

    return login_required(guarded)
