"""Every address of the control process."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from missioncontrol import errors, health
from missioncontrol.login import AdminLogin

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready),
    # One login for all: admin's own would let passwords be guessed at any speed.
    path("admin/login/", AdminLogin.as_view()),
    path("admin/", admin.site.urls),
    re_path("^api/schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(
        "^api/docs/?$",
        SpectacularSwaggerSplitView.as_view(url_name="schema"),
        name="docs",
    ),
    path("", include("apps.people.urls")),
    path("api/v1/", include("apps.registry.urls")),
    path("api/v1/", include("apps.gateway.urls")),
    path("api/v1/", include("apps.health.urls")),
    path("api/v1/", include("apps.telemetry.urls")),
    path("api/v1/", include("apps.events.urls")),
    path("", include("apps.dashboard.urls")),
]

handler400 = errors.bad_request
handler403 = errors.not_allowed
handler404 = errors.not_found
handler500 = errors.broken
