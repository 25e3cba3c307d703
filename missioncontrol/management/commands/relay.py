"""``manage.py relay``: number events, take ours to the bus and to subscriptions and those of others from it,
until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from apps.events.archive.inbox import ArchiveInbox
from apps.events.letters.jobs import Jobs
from apps.events.projector import Projector
from apps.events.relay import Relay
from apps.events.routing.distribution import Distribution
from apps.events.sequencer import Sequencer
from apps.events.subscriptions.engine import Engine
from apps.lib import aio
from missioncontrol import observe, publishers
from services.kit import garbage
from services.kit.broker import follow
from services.kit.events import keys
from services.kit.events.consumer import Consumer
from services.kit.events.mending import Mender
from services.kit.events.transport.routed import Routed


class Command(BaseCommand):
    """See the module. A second signal ends it at once."""

    help = "Relay events from the outbox to the bus until stopped."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        stop_reporting = observe.start("relay")
        try:
            aio.run(self._relay())
        finally:
            stop_reporting()

    async def _relay(self) -> None:
        loop = asyncio.get_running_loop()
        transport = Routed(settings.BUS_URLS, settings.BUS_DEFAULT, keep=settings.BUS_KEEP)
        rules = follow(settings.BUS_URLS, settings.HOME / "relay-routes", transport.adopt)
        distribution = Distribution()
        own = keys.read()
        relay, projector = Relay(transport, own, settings.REDIS_URL), Projector()
        engine = Engine(settings.REDIS_URL, settings.ADDRESS_GUARD, settings.VERSION, settings.WEBHOOK_ORIGIN)
        jobs = Jobs(settings.REDIS_URL)
        garbage.settle()

        def grown() -> None:
            projector.bell.set()
            engine.ring()

        sequencer = Sequencer(settings.REDIS_URL, then=grown)

        async with AsyncExitStack() as stack:
            stack.push_async_callback(transport.close)
            archive = Consumer(
                transport,
                ArchiveInbox(),
                ["#"],
                keys=own,
                group="archive",
                member=f"{socket.gethostname()}:{os.getpid()}",
                mender=Mender(await stack.enter_async_context(publishers.repair())),
            )

            def stop(number: int) -> None:
                # The next one is the system's own again: it kills.
                loop.remove_signal_handler(number)
                relay.stop()
                sequencer.stop()
                projector.stop()
                jobs.stop()
                archive.stopping.set()
                engine.stop()
                distribution.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop, number)
            if rules is not None:
                stack.push_async_callback(rules.stop)
                await rules.start()
            async with asyncio.TaskGroup() as parts:
                parts.create_task(distribution.run(), name="rules of routing")
                parts.create_task(sequencer.run(), name="sequencer")
                parts.create_task(projector.run(), name="projector")
                parts.create_task(jobs.run(), name="jobs")
                parts.create_task(relay.run(), name="relay")
                parts.create_task(archive.run(), name="archive")
                parts.create_task(engine.run(), name="subscriptions")
