"""The one login, by password: of the pages and of admin."""

from __future__ import annotations

import logging
import math
from typing import Any

from django.contrib.auth import views as auth
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from apps.people import logins

log = logging.getLogger(__name__)


@method_decorator(never_cache, name="dispatch")
class Login(auth.LoginView):
    """Django's login, with a growing wait for who fails. Who is logged in already is never asked to wait."""

    template_name = "registration/login.html"
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        attempt = logins.attempt(request)
        wait = math.ceil(attempt.wait())
        if wait > 0:
            unit = "second" if wait == 1 else "seconds"
            detail = f"Too many logins have failed from your address. Try again in {wait} {unit}."
            response = render(request, "message.html", {"title": "Wait a moment", "detail": detail}, status=429)
            response.headers["Retry-After"] = str(wait)
            return response
        response = super().post(request, *args, **kwargs)
        if request.user.is_authenticated:
            attempt.succeeded()
            logins.record(request)
            logins.remember(request, response)
        else:
            attempt.failed()
            log.warning("A login from %s failed.", request.META.get("REMOTE_ADDR", ""))
        return response
