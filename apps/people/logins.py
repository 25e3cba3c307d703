"""Which failed logins and tokens are remembered, and which browsers are known.

In this process's memory: a restart forgets, and of several control processes each counts for itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditlog.models import LogEntry
from django.conf import settings
from django.contrib.auth.forms import UsernameField
from django.core import signing
from django.http import HttpRequest, HttpResponse
from opentelemetry import metrics

from apps.lib.clock import monotonic
from apps.people.throttle import Throttle, source_of

DEVICE_DAYS = 90
SALT = "apps.people.device"

by_account = Throttle(free=5, first=5.0, most=300.0)
"""One account from one address, or from one browser that has logged in to it before."""
by_address = Throttle(free=50, first=5.0, most=60.0)
"""All strangers of one address together."""
tokens = Throttle(free=50, first=1.0, most=60.0)
"""Wrong REST tokens of one address. Guessing one is hopeless; this bounds what trying costs."""

_counted = metrics.get_meter("mission-control").create_counter(
    "mc.control.logins", unit="{login}", description="Logins by password, by result: ok, failed, throttled"
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to log in: what it is counted under. A known browser isn't held up by strangers of its address."""

    keys: Sequence[tuple[Throttle, str]]

    def wait(self) -> float:
        """Seconds until it may be made; 0 when now."""
        now = monotonic()
        wait = max(throttle.wait(key, now) for throttle, key in self.keys)
        if wait > 0:
            _counted.add(1, {"result": "throttled"})
        return wait

    def failed(self) -> None:
        """The password was wrong."""
        now = monotonic()
        for throttle, key in self.keys:
            throttle.failed(key, now)
        _counted.add(1, {"result": "failed"})

    def succeeded(self) -> None:
        """It was right; what the address has failed otherwise stays counted."""
        by_account.forget(self.keys[0][1])
        _counted.add(1, {"result": "ok"})


def attempt(request: HttpRequest) -> Attempt:
    """What the login that ``request`` asks for is counted under."""
    name = _plain(request.POST.get("username", ""))
    device = _device(request, name)
    if device:
        return Attempt([(by_account, f"device {device}")])
    source = source_of(request.META.get("REMOTE_ADDR", ""))
    return Attempt([(by_account, f"{source} {name}"), (by_address, source)])


def remember(request: HttpRequest, response: HttpResponse) -> None:
    """Make this browser a known one of the user who has just logged in (a device cookie, as OWASP calls it)."""
    name = _plain(request.user.get_username())  # type: ignore[union-attr]
    device = _device(request, name) or secrets.token_urlsafe(12)
    response.set_cookie(
        settings.DEVICE_COOKIE_NAME,
        signing.dumps([name, device], salt=SALT),
        max_age=DEVICE_DAYS * 86_400,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Strict",
    )


def record(request: HttpRequest) -> None:
    """The audit trail's line of a login."""
    user: Any = request.user
    address = request.META.get("REMOTE_ADDR") or None
    LogEntry.objects.log_create(
        user,
        force_log=True,
        action=LogEntry.Action.ACCESS,
        changes={"login": ["", "by password"]},
        actor=user,
        remote_addr=address,
    )


def _device(request: HttpRequest, name: str) -> str:
    try:
        owner, device = signing.loads(
            request.COOKIES.get(settings.DEVICE_COOKIE_NAME, ""), salt=SALT, max_age=DEVICE_DAYS * 86_400
        )
    except (signing.BadSignature, TypeError, ValueError):
        return ""
    return str(device) if owner == name else ""


def _plain(name: str) -> str:
    """The name that the login will look for, whatever compatible characters it was spelt with."""
    return str(UsernameField(max_length=150).to_python(name)).strip().lower()[:150]
