"""Where the pages of the bus answer; included below /events/. Ids are anybody's, so that their address comes last."""

from __future__ import annotations

from typing import Any

from django.urls import path

from apps.dashboard.events import catalogue, pages

urlpatterns: list[Any] = [
    path("", pages.events, name="events"),
    path("rows/", pages.rows, name="event-rows"),
    path("streams/<path:name>/", pages.stream, name="event-stream"),
    path("catalogue/", catalogue.catalogue, name="event-catalogue"),
    path("catalogue/<path:name>/", catalogue.kind, name="event-kind"),
    path("event/", pages.event, name="event-by-id"),
    path("<path:event_id>/", pages.event, name="event"),
]
