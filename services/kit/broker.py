"""The service's connection to the bus, as one of its parts."""

from __future__ import annotations

from .events.transport.connect import connect
from .settings import Settings


class Broker:
    """The Transport that the settings name; its outbox and its consumers share it."""

    def __init__(self, settings: Settings) -> None:
        self.transport = connect(settings.bus_url, keep=settings.bus_keep)

    async def start(self) -> None:
        """Nothing: a service may start before its bus."""

    async def stop(self) -> None:
        """Close the connections."""
        await self.transport.close()
