"""The service's connection to the bus, as one of its parts: every broker that it was told of, under the rules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from . import env
from .events.routing import Document
from .events.transport.routed import Routed
from .settings import Settings

log = logging.getLogger(__name__)


class Broker:
    """The Transport that the settings name; its outbox and its consumers share it."""

    def __init__(self, settings: Settings) -> None:
        self.transport = Routed(settings.bus_urls, settings.bus_default, keep=settings.bus_keep)
        file = settings.folder / f"{settings.instance}-routes"
        self._rules = follow(settings.bus_urls, file, self.transport.adopt)

    async def start(self) -> None:
        """Learn the rules as they are now; a service may start before its bus."""
        if self._rules is not None:
            await self._rules.start()

    async def stop(self) -> None:
        """Close the connections."""
        if self._rules is not None:
            await self._rules.stop()
        await self.transport.close()


def follow(urls: dict[str, str], file: Path, adopt: Callable[[Document], None]) -> Any:
    """Who follows the rules of routing for this process, keeping the last good ones in ``file``. None where there is no
    Redis to hear them on, or nothing to believe them by: then all goes to the default broker, and that is said."""
    if "redis" not in urls:
        return None
    try:
        # Loaded where it is of use alone: its packages may not be installed for a service on another broker.
        rules = import_module(".events.transport.redis_rules", __package__)
        signature = import_module(".signature", __package__)
        return rules.Rules(urls["redis"], signature.verifier(), file, adopt)
    except (ModuleNotFoundError, env.EnvError) as error:
        log.warning("Rules of routing are not followed here, all events go to the default broker: %s", error)
        return None
