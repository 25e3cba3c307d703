"""The reference fleet and the first people and keys, as the first start finds them.

What an admin changed or deleted since stays as it is: rows are made at the first start alone, and
later runs only let the fleet's addresses follow the ports. Owns ``credentials.json``,
``nexus_api_key`` and ``aegis_clients.json`` under MC_HOME.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.db import transaction

from apps.gateway import actions
from apps.gateway.models import (
    ApiKey,
    BreakerPolicy,
    Consumer,
    JwtIssuer,
    RateLimitPolicy,
    Route,
    ServicePolicy,
)
from apps.gateway.revisions import ConfigRevision
from apps.health.models import HealthCheck
from apps.lib.roles import ADMIN, OPERATOR, VIEWER
from apps.people import actions as tokens
from apps.registry.models import Instance, Service
from apps.registry.publishing import Publication

AUTHOR = "seed"
TOKEN_NAME = "credentials.json"  # noqa: S105 - what it is for


@dataclass(frozen=True, slots=True)
class Opening:
    """A route to a member and who may call it. Nobody named: anyone, by credentials that the member checks itself."""

    name: str
    allow: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    auth: tuple[str, ...] = ("key", "jwt")


@dataclass(frozen=True, slots=True)
class Member:
    """One service of the reference fleet."""

    name: str
    title: str
    description: str
    openings: tuple[Opening, ...]


READ = ("GET", "HEAD")

MEMBERS = (
    Member("aegis", "Aegis", "Identity: issues and validates tokens.", (Opening("aegis"),)),
    Member(
        "covenant",
        "Covenant",
        "Append-only ledger with proofs.",
        (
            Opening("covenant", ("demo", "nexus"), READ),
            # Whoever appends may name any account as the sender, so nexus alone does.
            Opening("covenant-append", ("nexus",), ("POST",), ("key",)),
        ),
    ),
    Member("nexus", "Nexus", "Recognises what a sentence asks for and has it done.", (Opening("nexus", ("demo",)),)),
    Member("mint", "Mint", "Balances, moved by what the ledger records.", (Opening("mint", ("demo", "nexus"), READ),)),
)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the fleet and the gateway listen."""

    gateway: int
    services: dict[str, int]


class Home:
    """The files under MC_HOME that the seed owns: mode 0600, replaced whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.credentials = path / "credentials.json"
        self.nexus_key = path / "secrets" / "nexus_api_key"
        self.aegis_clients = path / "secrets" / "aegis_clients.json"

    @staticmethod
    def read(path: Path) -> str:
        return path.read_text().strip() if path.exists() else ""

    @classmethod
    def read_json(cls, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(cls.read(path) or "{}")
        except json.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    @classmethod
    def write(cls, path: Path, text: str) -> None:
        """Nothing happens when the file says so already."""
        if cls.read(path) == text.strip():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text.rstrip("\n") + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def seed(home: Home, ports: Ports, say: Callable[[str], None], *, fleet: bool = True) -> Publication:
    """Make what is missing at the first start, let addresses follow the ports, write the files, publish once."""
    with transaction.atomic():
        roles(say)
        first = not ConfigRevision.objects.exists()
        known = home.read_json(home.credentials)
        known = people(known, say)
        if fleet and first:
            reference_fleet(ports, say)
        if fleet:
            follow_ports(ports, say)
            known["demo_api_key"] = key_of("demo", known.get("demo_api_key", ""), say)
            clients = home.read_json(home.aegis_clients)
            secret = clients.setdefault("demo", secrets.token_urlsafe(32))
            known["demo_client"] = {"id": "demo", "secret": secret}
            nexus_key = key_of("nexus", home.read(home.nexus_key), say)
        publication = actions.publish(AUTHOR, "First start" if first else "Start")
        # Inside the transaction: without the files, rows that only they can open must not stand.
        home.write(home.credentials, json.dumps(known, indent=2))
        if fleet:
            home.write(home.aegis_clients, json.dumps(clients, indent=2))
            home.write(home.nexus_key, nexus_key)
    return publication


# -- people --------------------------------------------------------------------------------------

LOOKABLE = ("registry", "gateway", "health", "events", "telemetry")
ADMINS_ALONE = {"consumer", "apikey", "idempotentwrite"}
"""Models of those apps that viewers and operators don't see."""


def roles(say: Callable[[str], None]) -> None:
    """The groups viewer, operator and admin with what each may do in Django admin."""
    everything = list(Permission.objects.select_related("content_type"))
    looks = [
        permission
        for permission in everything
        if permission.content_type.app_label in LOOKABLE
        and permission.content_type.model not in ADMINS_ALONE
        and permission.codename.startswith("view_")
    ]
    acts = [permission for permission in everything if permission.content_type.model == "breakeroverride"]
    for name, permissions in ((VIEWER, looks), (OPERATOR, looks + acts), (ADMIN, everything)):
        group, created = Group.objects.get_or_create(name=name)
        held = set(group.permissions.values_list("pk", flat=True))
        missing = [permission for permission in permissions if permission.pk not in held]
        if missing:
            group.permissions.add(*missing)
        if created:
            say(f"role {name} made")


def people(known: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The first admin and an API token of theirs, as ``credentials.json`` knows them or made now."""
    name = known.get("admin", {}).get("username") or "admin"
    password = known.get("admin", {}).get("password") or ""
    user = User.objects.filter(username=name).first()
    if user is None:
        password = password or secrets.token_urlsafe(18)
        user = User.objects.create_superuser(name, password=password)
        say(f"user {name} made")
    elif not password:
        password = secrets.token_urlsafe(18)
        user.set_password(password)
        user.save(update_fields=["password"])
        say(f"user {name} got a new password: credentials.json was gone")
    user.groups.add(Group.objects.get(name=ADMIN))

    token = known.get("api_token") or ""
    if not tokens.is_live(token, user):
        # Unknown here, expired, or ended by hand or with the password: never brought back to life.
        _, token = tokens.issue(user, TOKEN_NAME)
        say("API token made")
    return known | {"admin": {"username": name, "password": password}, "api_token": token}


def key_of(consumer: str, key: str, say: Callable[[str], None]) -> str:
    """The key that the file holds, when the database knows it; else one made now. Empty without the consumer."""
    owner = Consumer.objects.filter(name=consumer).first()
    if owner is None:
        return key
    if key and ApiKey.objects.filter(hash=actions.hash_key(key)).exists():
        return key
    shaped = key.startswith("mc_") and key.count("_") >= 2
    for old in owner.keys.filter(name=_key_name(consumer), revoked_at=None):
        actions.revoke_key(old, author=AUTHOR)
    _, key = actions.issue_key(owner, author=AUTHOR, name=_key_name(consumer), key=key if shaped else None)
    say(f"API key of {consumer} made")
    return key


def _key_name(consumer: str) -> str:
    return f"first key of {consumer}"


# -- fleet ---------------------------------------------------------------------------------------


def reference_fleet(ports: Ports, say: Callable[[str], None]) -> None:
    """Services, instances, checks, routes and policies of the reference fleet, where absent."""
    limit, _ = RateLimitPolicy.objects.get_or_create(name="standard", defaults={"requests": 200, "burst": 400})
    breaker, _ = BreakerPolicy.objects.get_or_create(
        name="standard",
        defaults={
            "sliding_window_size": 10,
            "minimum_calls": 5,
            "failure_rate": 0.5,
            "slow_call_duration": 5.0,
            "slow_call_rate": 1.0,
            "wait_in_open": 5.0,
            "half_open_calls": 3,
        },
    )
    Consumer.objects.get_or_create(name="demo", defaults={"title": "Demonstration", "subjects": ["aegis/demo"]})
    Consumer.objects.get_or_create(name="nexus", defaults={"title": "Nexus calling other services"})
    for member in MEMBERS:
        service, _ = Service.objects.get_or_create(
            name=member.name,
            defaults={
                "title": member.title,
                "description": member.description,
                "owner": "Mission Control",
                "fleet": True,
            },
        )
        Instance.objects.get_or_create(
            service=service, name=f"{member.name}-1", defaults={"url": _url(ports, member.name)}
        )
        HealthCheck.objects.get_or_create(
            service=service,
            defaults={"path": "/health", "interval_s": 2.0, "timeout_s": 1.0, "rise": 2, "fall": 2},
        )
        ServicePolicy.objects.get_or_create(service=service, defaults={"breaker": breaker})
        for opening in member.openings:
            Route.objects.get_or_create(
                name=opening.name,
                defaults={
                    "service": service,
                    "path": f"/{member.name}",
                    "rate_limit": limit,
                    "description": member.description,
                    **_who(opening),
                },
            )
        say(f"service {member.name} at {_url(ports, member.name)}, route /{member.name}")
    JwtIssuer.objects.get_or_create(name="aegis", defaults=_issuer(ports))
    say("JWT issuer aegis trusted")


def _who(opening: Opening) -> dict[str, Any]:
    if not opening.allow:
        return {"auth": [], "forward_credentials": True}
    return {
        "auth": list(opening.auth),
        "issuers": ["aegis"] if "jwt" in opening.auth else [],
        "allow": list(opening.allow),
        "methods": list(opening.methods),
    }


def follow_ports(ports: Ports, say: Callable[[str], None]) -> None:
    """Let the fleet's own instances and issuer follow the ports of this start."""
    for member in MEMBERS:
        instance = Instance.objects.filter(service__name=member.name, name=f"{member.name}-1").first()
        url = _url(ports, member.name)
        if instance is not None and instance.url != url and instance.url.startswith("http://127.0.0.1:"):
            instance.url = url
            instance.save(update_fields=["url", "updated_at"])
            say(f"instance {instance.key} moved to {url}")
    issuer = JwtIssuer.objects.filter(name="aegis", issuer__startswith="http://localhost:").first()
    wanted = _issuer(ports)
    if issuer is not None and (issuer.issuer, issuer.jwks_url) != (wanted["issuer"], wanted["jwks_url"]):
        issuer.issuer, issuer.jwks_url = wanted["issuer"], wanted["jwks_url"]
        issuer.save(update_fields=["issuer", "jwks_url", "updated_at"])
        say(f"JWT issuer aegis is now {issuer.issuer}")


def _url(ports: Ports, name: str) -> str:
    return f"http://127.0.0.1:{ports.services[name]}"


def _issuer(ports: Ports) -> dict[str, Any]:
    return {
        "issuer": f"http://localhost:{ports.gateway}/aegis",
        "audience": "mission-control",
        "algorithms": ["EdDSA"],
        "jwks_url": f"{_url(ports, 'aegis')}/.well-known/jwks.json",
    }
