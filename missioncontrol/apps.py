"""The composition root as a Django app: its commands, its admin, and what must be loaded once apps are."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig


class MissionControlConfig(AppConfig):
    name = "missioncontrol"
    label = "missioncontrol"

    def ready(self) -> None:
        # Names the authentication schemes of the OpenAPI document by being imported.
        import_module("apps.lib.schema")
