"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from django.urls import path
from rest_framework.routers import SimpleRouter

from apps.events.api import EventViewSet
from apps.events.letters.api import JobViewSet, LetterViewSet
from apps.events.routing.api import RoutingRuleViewSet
from apps.events.schemas.api import TYPE, AsyncApiView, EventTypeViewSet, SchemaVersionViewSet
from apps.events.subscriptions.urls import urlpatterns as subscriptions

router = SimpleRouter(trailing_slash=False)
router.register("events/schemas", EventTypeViewSet)
router.register(f"events/schemas/(?P<name>{TYPE})/versions", SchemaVersionViewSet)
router.register("events/routes", RoutingRuleViewSet)
router.register("events/dead-letters", LetterViewSet)
router.register("events/jobs", JobViewSet)
# Last: an id may hold anything.
router.register("events", EventViewSet)

urlpatterns = [path("events/asyncapi", AsyncApiView.as_view()), *subscriptions, *router.urls]
