"""nexus put together: its model, its client and its addresses."""

from __future__ import annotations

from fastapi import FastAPI

from services.kit.app import create_app
from services.kit.checks import Check
from services.kit.client import Client
from services.kit.settings import Settings
from services.nexus.api import router
from services.nexus.settings import NexusSettings
from services.nexus.store import ModelStore


def build(settings: Settings) -> FastAPI:
    """The application for ``settings``."""
    assert isinstance(settings, NexusSettings)  # noqa: S101 - services.nexus.settings.read made them
    models = ModelStore()
    client = Client(settings, settings.api_key)
    return create_app(
        settings,
        title="nexus",
        description="Recognises what a sentence asks for and carries it out through the other services.",
        parts=[models, client],
        # Other services are not checked: when one is away, what needs it fails and says so, and the rest works.
        checks=[Check("model", models.probe)],
        routers=[router(models, client, settings.most)],
    )
