"""Pages without collected static files, and no feed left over from another test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.dashboard.feed import feed


@pytest.fixture(autouse=True)
def plain_static(settings: Any) -> Iterator[None]:
    settings.STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    feed.cache_clear()
    yield
    feed.cache_clear()
