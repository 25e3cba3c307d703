"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from rest_framework.routers import SimpleRouter

from apps.registry.api import InstanceViewSet, ServiceViewSet

router = SimpleRouter(trailing_slash=False)
router.register("services", ServiceViewSet)
router.register("instances", InstanceViewSet)

urlpatterns = router.urls
