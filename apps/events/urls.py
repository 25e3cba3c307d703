"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from rest_framework.routers import SimpleRouter

from apps.events.api import EventViewSet

router = SimpleRouter(trailing_slash=False)
router.register("events", EventViewSet)

urlpatterns = router.urls
