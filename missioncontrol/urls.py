"""Every address of the control process."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("api/v1/", include("apps.registry.urls")),
    path("api/v1/", include("apps.gateway.urls")),
    path("api/v1/", include("apps.health.urls")),
    path("api/v1/", include("apps.telemetry.urls")),
    path("api/v1/", include("apps.events.urls")),
    path("", include("apps.dashboard.urls")),
]
