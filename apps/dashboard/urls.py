"""Where this app answers; included by missioncontrol.urls, the socket by missioncontrol.asgi."""

from __future__ import annotations

from typing import Any

from channels.routing import URLRouter
from django.urls import include, path

from apps.dashboard import pages, tokens, traces
from apps.dashboard.api import LiveFeedView
from apps.dashboard.consumers import LiveConsumer, Nowhere

urlpatterns: list[Any] = [
    path("", pages.overview, name="overview"),
    path("services/", pages.services, name="services"),
    # What reports itself may have any name, with slashes and all.
    path("services/<path:name>/red.json", pages.red, name="service-red"),
    path("services/<path:name>/", pages.service, name="service"),
    path("traces/", pages.traces, name="traces"),
    path("traces/<str:trace_id>/", traces.trace, name="trace"),
    path("gateway/", pages.plane, name="gateway"),
    path("tokens/", tokens.tokens, name="tokens"),
    path("tokens/<int:pk>/end/", tokens.end, name="token-end"),
    path("events/", include("apps.dashboard.events.urls")),
    path("system/", pages.system, name="system"),
    path("api/v1/live", LiveFeedView.as_view(), name="live-feed"),
]

websocket = URLRouter(
    [
        path("ws/live", LiveConsumer.as_asgi()),
        path("<path:rest>", Nowhere.as_asgi()),
        path("", Nowhere.as_asgi()),
    ]
)
