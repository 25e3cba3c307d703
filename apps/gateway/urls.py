"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from rest_framework.routers import SimpleRouter

from apps.gateway import api

router = SimpleRouter(trailing_slash=False)
router.register("routes", api.RouteViewSet)
router.register("rate-limits", api.RateLimitViewSet)
router.register("breaker-policies", api.BreakerPolicyViewSet)
router.register("service-policies", api.ServicePolicyViewSet)
router.register("consumers", api.ConsumerViewSet)
router.register("keys", api.KeyViewSet)
router.register("issuers", api.IssuerViewSet)
router.register("revisions", api.RevisionViewSet)
router.register("breakers", api.BreakerViewSet, basename="breaker")
router.register("workers", api.WorkerViewSet, basename="worker")

urlpatterns = router.urls
