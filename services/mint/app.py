"""mint put together: its store, the consumer that feeds it, and its addresses."""

from __future__ import annotations

from fastapi import FastAPI

from services.kit.app import create_app
from services.kit.bus import Bus, Consumer
from services.kit.checks import Check
from services.kit.settings import Settings
from services.kit.store import Store
from services.mint.api import router
from services.mint.store import MIGRATIONS, apply

RECORDED = "business.transaction.recorded"


def build(settings: Settings) -> FastAPI:
    """The application for ``settings``."""
    store = Store(settings.database_url, MIGRATIONS)
    bus = Bus(settings.redis_url)
    consumer = Consumer(bus, store, group=settings.name, member=settings.instance, type=RECORDED, handler=apply)
    return create_app(
        settings,
        title="mint",
        description="Balances, kept by double entry from the transactions that covenant records.",
        parts=[store, bus, consumer],
        checks=[
            Check("database", store.probe),
            # Without the bus its balances grow stale, so it says that it is unwell.
            Check("bus", consumer.probe),
        ],
        routers=[router(store)],
    )
