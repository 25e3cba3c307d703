"""Where the pages of the bus answer; included below /events/. Ids are anybody's, so that their address comes last."""

from __future__ import annotations

from typing import Any

from django.urls import path

from apps.dashboard.events import catalogue, charts, letters, pages, subscriptions, tester

urlpatterns: list[Any] = [
    path("", pages.events, name="events"),
    path("rows/", pages.rows, name="event-rows"),
    path("streams/<path:name>/", pages.stream, name="event-stream"),
    path("catalogue/", catalogue.catalogue, name="event-catalogue"),
    path("catalogue/<path:name>/", catalogue.kind, name="event-kind"),
    path("subscriptions/", subscriptions.subscriptions, name="event-subscriptions"),
    path("subscriptions/<slug:name>/", subscriptions.subscription, name="event-subscription"),
    path("dead-letters/", letters.letters, name="dead-letters"),
    path("dead-letters/<int:pk>/", letters.letter, name="dead-letter"),
    path("flow/", charts.flow, name="event-flow"),
    path("tester/", tester.tester, name="event-tester"),
    path("event/", pages.event, name="event-by-id"),
    path("<path:event_id>/", pages.event, name="event"),
]
