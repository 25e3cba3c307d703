"""aegis put together: its clients, its keys and its addresses."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from services.aegis import store as clients
from services.aegis.api import router
from services.aegis.keys import BadKeys, KeyRing
from services.aegis.settings import AegisSettings
from services.aegis.store import CLIENTS
from services.kit.app import create_app
from services.kit.checks import Check, Unwell
from services.kit.settings import Settings
from services.kit.store import Store


class Identity:
    """The part that readies keys and clients at start."""

    def __init__(self, settings: AegisSettings, store: Store, keys: KeyRing) -> None:
        self._settings = settings
        self._store = store
        self._keys = keys

    async def start(self) -> None:
        """Load or make the keys, and bring the clients in line with their file."""
        await asyncio.to_thread(self._keys.load)
        secrets = await asyncio.to_thread(clients.read_file, self._settings.clients_file)
        await self._store.write(lambda connection: clients.bring_in_line(connection, secrets))

    async def stop(self) -> None:
        """Nothing is held open."""

    async def probe(self) -> None:
        """Unwell when the signing keys can't be read."""
        try:
            self._keys.load()
        except (BadKeys, OSError) as error:
            raise Unwell(str(error)) from None


def build(settings: Settings) -> FastAPI:
    """The application for ``settings``."""
    assert isinstance(settings, AegisSettings)  # noqa: S101 - services.aegis.settings.read made them
    store = Store(settings.database_url, CLIENTS)
    keys = KeyRing(settings.keys_file)
    identity = Identity(settings, store, keys)
    return create_app(
        settings,
        title="aegis",
        description="Identity: short-lived JWTs for registered clients, and the keys that verify them.",
        parts=[store, identity],
        checks=[Check("database", store.probe), Check("keys", identity.probe)],
        routers=[router(settings, store, keys)],
    )
