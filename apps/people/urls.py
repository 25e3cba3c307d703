"""Where this app answers; included by missioncontrol.urls."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from apps.people.api import TokenViewSet
from apps.people.login import Login

router = SimpleRouter(trailing_slash=False)
router.register("tokens", TokenViewSet)

urlpatterns = [
    path("login/", Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("api/v1/", include(router.urls)),
]
