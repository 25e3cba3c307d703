"""Where subscriptions answer; included by apps.events.urls, before what takes any id."""

from __future__ import annotations

from django.urls import path
from rest_framework.routers import SimpleRouter

from apps.events.subscriptions.api import NAME, AttemptViewSet, SubscriptionTestView, SubscriptionViewSet

router = SimpleRouter(trailing_slash=False)
router.register("events/subscriptions", SubscriptionViewSet)
router.register(f"events/subscriptions/(?P<name>{NAME})/attempts", AttemptViewSet)

urlpatterns = [path("events/subscriptions/<slug:name>/test", SubscriptionTestView.as_view()), *router.urls]
