"""``manage.py seed``: the first start's roles, people, keys and reference fleet; harmless to run again."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from apps.gateway import actions
from missioncontrol.fleet import Home, Ports, seed
from services.kit import env

DEFAULT_PORTS = {"aegis": 7101, "covenant": 7102, "nexus": 7103, "mint": 7104}


class Command(BaseCommand):
    help = "Make the roles, the first admin, keys and the reference fleet, and publish the configuration."
    # The launcher checks the system once; here it would cost a third of a second.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-fleet", action="store_true", help="Leave the reference fleet out.")

    def handle(self, *args: Any, **options: Any) -> None:
        ports = Ports(
            gateway=env.port("MC_GATEWAY_PORT", 8080),
            services={name: env.port(f"MC_{name.upper()}_PORT", port) for name, port in DEFAULT_PORTS.items()},
        )
        home = Home(settings.HOME)
        publication = seed(home, ports, self.say, fleet=not options["no_fleet"])
        if publication.new:
            self.say(f"configuration published as revision {publication.revision}")
            if not publication.delivered:
                self.say("Redis is not reachable yet; gateways get the revision when it is")
        else:
            actions.reconcile()
            self.say(f"configuration unchanged at revision {publication.revision}")
        self.say(f"credentials are in {home.credentials}")

    def say(self, line: str) -> None:
        self.stdout.write(f"seed: {line}")
