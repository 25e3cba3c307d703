"""Who may see a page, and how often a login may fail. Knows no page."""

from __future__ import annotations

from collections import OrderedDict
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


class Throttle:
    """Counts failures per key in a bounded table: after ``most`` within ``window`` seconds, wait.

    When the table is full the key that failed longest ago is forgotten, so a flood of made-up names
    costs bounded memory; each address is a key too, so the flood itself is slowed.
    """

    def __init__(self, most: int, window: float, keys: int = 10_000) -> None:
        self._most, self._window, self._keys = most, window, keys
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until ``key`` may try again; 0 when it may now."""
        young = [at for at in self._failures.get(key, ()) if now - at < self._window]
        return max(0.0, young[-self._most] + self._window - now) if len(young) >= self._most else 0.0

    def failed(self, key: str, now: float) -> None:
        """One more failure."""
        young = [at for at in self._failures.pop(key, ()) if now - at < self._window][-self._most :]
        self._failures[key] = [*young, now]
        while len(self._failures) > self._keys:
            self._failures.popitem(last=False)

    def forget(self, key: str) -> None:
        """It succeeded."""
        self._failures.pop(key, None)
