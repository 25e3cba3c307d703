"""What tests of people share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.people import logins


@pytest.fixture(autouse=True)
def forgetful(settings: Any) -> Iterator[None]:
    """No test's failures count in another; neither hashing nor static files are what is tested here."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    throttles = (logins.by_account, logins.by_address, logins.tokens)
    for throttle in throttles:
        throttle._failures.clear()
    yield
    for throttle in throttles:
        throttle._failures.clear()
