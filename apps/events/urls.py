"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from typing import Any

urlpatterns: list[Any] = []
