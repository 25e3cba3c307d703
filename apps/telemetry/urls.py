"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from django.urls import path

from apps.telemetry.api import TraceListView, TraceView

urlpatterns = [
    path("traces", TraceListView.as_view(), name="traces"),
    path("traces/<str:trace_id>", TraceView.as_view(), name="trace"),
]
