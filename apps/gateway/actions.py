"""What changes the gateway's configuration: publish, deliver, keys and breaker overrides."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import string
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import redis
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Prefetch
from django.utils import timezone

from apps.events import actions as events
from apps.gateway import compile as compiler
from apps.gateway.core import config
from apps.gateway.models import (
    ApiKey,
    BreakerOverride,
    ConfigRevision,
    Consumer,
    JwtIssuer,
    RateLimitPolicy,
    Route,
)
from apps.lib import clock, kv, wire
from apps.lib.border import MALFORMED, REFUSED, is_spoilt
from apps.lib.writes import ChangeRefused
from apps.registry.models import Instance, Service
from apps.registry.publishing import Publication
from services.kit.seal import Refused

LETTERS = string.ascii_letters + string.digits

log = logging.getLogger(__name__)

PUBLISH_LOCK = 0x6D63_6366
"""PostgreSQL's advisory lock for publishing. SQLite has one writer at a time as it is."""


def publish(author: str, reason: str = "") -> Publication:
    """Compile what the database says, and store it as the next revision unless the newest says the same.

    Runs in the caller's transaction, so that a change and its revision stand or fall together;
    ChangeRefused when the whole does not hold. Gateways get it when the transaction commits.
    """
    with transaction.atomic():
        _one_publisher_at_a_time()
        try:
            made = document()
        except config.ConfigError as error:
            raise ChangeRefused(str(error), error.field) from None
        newest = ConfigRevision.objects.order_by("-number").first()
        if newest is not None and newest.digest == made.digest:
            return Publication(newest.number, new=False)
        revision = _store(made, newest, author, reason)
        publication = Publication(revision.number, new=True)

        def send() -> None:
            publication.delivered = deliver()

        transaction.on_commit(send)
        return publication


def _one_publisher_at_a_time() -> None:
    """Without this, two transactions that can't see each other's change would each publish without the other's."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [PUBLISH_LOCK])


def document() -> config.Document:
    """The document of what the database says now; ConfigError when it doesn't hold."""
    rows = (
        Service.objects.order_by("name")
        .select_related("policy__breaker", "breaker_override")
        .prefetch_related(
            Prefetch("instances", Instance.objects.filter(enabled=True).order_by("name"), to_attr="in_rotation")
        )
    )
    return compiler.document(
        services=[_ServiceRow(row) for row in rows],
        routes=Route.objects.order_by("name").select_related("service", "rate_limit"),
        rate_limits=RateLimitPolicy.objects.order_by("name"),
        consumers=Consumer.objects.order_by("name").select_related("rate_limit"),
        keys=ApiKey.objects.order_by("prefix").select_related("consumer"),
        issuers=JwtIssuer.objects.order_by("name"),
    )


class _ServiceRow:
    """A service with what the gateway knows of it; absent rows of one-to-one relations are None."""

    def __init__(self, row: Any) -> None:
        self.name, self.fleet, self.instances = row.name, row.fleet, row.in_rotation
        self.policy = getattr(row, "policy", None)
        self.override = getattr(row, "breaker_override", None)


def _store(made: config.Document, newest: ConfigRevision | None, author: str, reason: str) -> ConfigRevision:
    now = timezone.now()
    number = 1 if newest is None else newest.number + 1
    changes = compiler.differences(_content(newest), made)
    made = msgspec.structs.replace(made, revision=number, created_at=now.timestamp())
    revision = ConfigRevision.objects.create(
        number=number,
        digest=made.digest,
        document=config.encode(made).decode(),
        summary=compiler.summary(changes),
        changes=changes,
        author=author,
        reason=reason[:300],
        created_at=now,
    )
    events.publish(
        "system.configuration.published",
        {
            "revision": number,
            "digest": made.digest,
            "summary": revision.summary,
            "author": author,
            "reason": revision.reason,
        },
        subject=str(number),
    )
    return revision


def _content(revision: ConfigRevision | None) -> config.Document | None:
    """What a revision says; None when an older release wrote it in a shape that no longer reads."""
    try:
        return None if revision is None else config.decode(revision.document.encode())
    except config.ConfigError:
        return None


class _Head(msgspec.Struct):
    """The part of a document that tells whether Redis has the newest."""

    revision: int
    digest: str = ""


def deliver() -> bool:
    """Make Redis say what the newest revision says, and tell the workers; False when Redis is away.

    The revision is read after the key is watched, so of two deliveries at once the newer wins
    whatever their order. Cheap when there is nothing to do: one GET and one indexed query.
    """
    client = kv.client(settings.REDIS_URL)
    try:
        with client.pipeline() as pipe:
            while True:
                pipe.watch(wire.CONFIG_CURRENT)
                signed_at, there = _there(pipe)
                newest = ConfigRevision.objects.order_by("-number").first()
                if newest is None or (
                    there is not None and there.digest == newest.digest and there.revision == newest.number
                ):
                    return True
                pipe.multi()
                # Later than what is there, whatever our clock says: gateways never go back to an older signature.
                signed_at = max(clock.wall(), signed_at + 0.001)
                body = newest.document.encode()
                pipe.set(wire.CONFIG_CURRENT, settings.REVISION_SIGNER.close(wire.CONFIG_CURRENT, body, signed_at))
                pipe.publish(wire.CONFIG_CHANNEL, str(newest.number))
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                return True
    except redis.RedisError as error:
        log.warning("Redis can't be reached (%s); gateways get the newest revision when it is back.", error)
        return False


def _there(pipe: Any) -> tuple[float, _Head | None]:
    """What Redis has: when it was signed, and its head; nothing when that is not by us, whatever it says."""
    try:
        data = pipe.get(wire.CONFIG_CURRENT)
        if data is None:
            return 0.0, None
        signed = settings.REVISION_SIGNER.open(wire.CONFIG_CURRENT, data)
        return signed.at, msgspec.json.decode(signed.body, type=_Head)
    except (Refused, msgspec.DecodeError):
        settings.WIRE.pass_over(REFUSED, wire.CONFIG_CURRENT)
    except redis.ResponseError as error:
        if not is_spoilt(error):
            raise
        settings.WIRE.pass_over(MALFORMED, wire.CONFIG_CURRENT)
    return 0.0, None


def reconcile() -> bool:
    """Bring Redis up to date after it was away or emptied, as the monitor does every few seconds. False when away."""
    return deliver()


# -- API keys ------------------------------------------------------------------------------------


def hash_key(key: str) -> str:
    """Hex HMAC-SHA-256 of the whole key under the pepper: what the database and the document hold."""
    return hmac.new(settings.KEY_PEPPER.encode(), key.encode(), hashlib.sha256).hexdigest()


def make_key() -> str:
    """A new key, ``mc_<prefix>_<secret>``: the prefix names it, the secret has 190 bits."""
    secret = "".join(secrets.choice(LETTERS) for _ in range(32))
    return f"mc_{secrets.token_hex(4)}_{secret}"


def describe_key(key: str) -> tuple[str, str]:
    """All of a key that is kept: its prefix and its keyed hash."""
    return key.split("_")[1], hash_key(key)


def issue_key(
    consumer: Consumer,
    *,
    author: str,
    name: str = "",
    scopes: Sequence[str] = (),
    expires_at: datetime | None = None,
    key: str | None = None,
) -> tuple[ApiKey, str]:
    """A key for ``consumer``: the stored row, and the key itself, which nothing can tell again. Does not publish."""
    key = key or make_key()
    prefix, digest = describe_key(key)
    row = ApiKey.objects.create(
        consumer=consumer,
        name=name,
        scopes=list(scopes),
        prefix=prefix,
        hash=digest,
        created_by=author,
        expires_at=expires_at,
    )
    return row, key


def revoke_key(row: ApiKey, *, author: str) -> bool:
    """End a key's life for good; False when it was revoked before. Does not publish."""
    with transaction.atomic():
        row = ApiKey.objects.select_for_update().get(pk=row.pk)
        if row.revoked_at is not None:
            return False
        row.revoked_at, row.revoked_by = timezone.now(), author
        row.save(update_fields=["revoked_at", "revoked_by"])
        return True


# -- breakers ------------------------------------------------------------------------------------


def hold_breaker(service: Service, state: str, *, author: str, reason: str) -> Publication:
    """Hold the service's breaker ``open`` or ``closed`` until released, and publish."""
    with transaction.atomic():
        BreakerOverride.objects.update_or_create(
            service=service, defaults={"state": state, "reason": reason, "by": author, "at": timezone.now()}
        )
        return publish(author, f"Breaker of {service.name} held {state}: {reason}")


def release_breaker(service: Service, *, author: str, reason: str) -> Publication:
    """Let the service's breaker judge for itself again, and publish; nothing happens when it does already."""
    with transaction.atomic():
        BreakerOverride.objects.filter(service=service).delete()
        return publish(author, f"Breaker of {service.name} released: {reason}")
