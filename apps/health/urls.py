"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from django.urls import path, re_path
from rest_framework.routers import SimpleRouter

from apps.health.api import (
    BreakerTransitionList,
    HealthCheckViewSet,
    HealthTransitionList,
    StatusView,
    SummaryView,
)
from apps.registry.api import NAME

router = SimpleRouter(trailing_slash=False)
router.register("health-checks", HealthCheckViewSet)

urlpatterns = [
    *router.urls,
    path("health", StatusView.as_view(), name="health-statuses"),
    path("health/transitions", HealthTransitionList.as_view(), name="health-transitions"),
    re_path(rf"^health/(?P<service>{NAME})/summary$", SummaryView.as_view(), name="health-summary"),
    path("breaker-transitions", BreakerTransitionList.as_view(), name="breaker-transitions"),
]
