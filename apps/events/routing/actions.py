"""What changes where events go: publish the rules, and hand them out."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import msgspec
import redis
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from apps.events.routing.models import RoutingRevision, RoutingRule
from apps.lib import clock, kv, wire
from apps.lib.border import MALFORMED, REFUSED, is_spoilt
from services.kit.events import routing
from services.kit.problem import Problem
from services.kit.problem import Refused as Problematic
from services.kit.seal import Refused

log = logging.getLogger(__name__)

FORMER = timedelta(days=7)
"""How long what a rule sent somewhere is still looked for there, as long as a broker keeps it."""
LOOK_BACK = 200
"""Revisions that are asked for former rules at most."""
PUBLISH_LOCK = 0x6D63_7274
"""PostgreSQL's advisory lock for publishing. SQLite has one writer at a time as it is."""
LATELY: tuple[routing.Rule, ...] = (routing.Rule(routing.EVERY, routing.DEFAULT),)
"""What stands behind all rules: until some rule took it, an event went to the default broker."""


def publish(author: str) -> RoutingRevision | None:
    """Store what the rules say as the next revision; None when the newest says the same.

    Runs in the caller's transaction, so that a change and its revision stand or fall together. Relays and services get
    it when the transaction commits. A problem when there are too many rules.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [PUBLISH_LOCK])
        rows = RoutingRule.objects.filter(enabled=True).order_by("order", "name")
        rules = tuple(row.as_rule() for row in rows[: routing.MAX_RULES + 1])
        if len(rules) > routing.MAX_RULES:
            raise Problematic(
                Problem(422, "too_many_rules", f"There may be {routing.MAX_RULES:,} rules that are enabled.")
            )
        newest = RoutingRevision.objects.first()
        if rules == (read(newest).rules if newest is not None else ()):
            return None
        number = newest.number + 1 if newest is not None else 1
        document = routing.Document(number, rules, former())
        revision = RoutingRevision.objects.create(
            number=number, document=msgspec.json.encode(document).decode(), author=author
        )
        transaction.on_commit(deliver)
        return revision


def read(revision: RoutingRevision) -> routing.Document:
    """What a revision says; nothing when an older release wrote it in a format that no longer reads."""
    try:
        return routing.decode(revision.document.encode())
    except routing.RoutesError:
        return routing.NOTHING


def former() -> tuple[routing.Rule, ...]:
    """All rules that held within ``FORMER``, the newest first, and what stands behind them."""
    since = timezone.now() - FORMER
    found: dict[routing.Rule, None] = {}
    for revision in RoutingRevision.objects.all()[:LOOK_BACK]:
        for rule in read(revision).rules:
            found.setdefault(msgspec.structs.replace(rule, key="", name=""))
        if len(found) >= routing.MAX_RULES or revision.created_at < since:
            # This one held until the next was published, which is within.
            break
    return (*LATELY, *found)[: routing.MAX_RULES]


class _Head(msgspec.Struct):
    revision: int


def deliver() -> bool:
    """Make Redis say what the newest revision says, and tell everybody who follows; False when Redis is away.

    The revision is read after the key is watched, so of two deliveries at once the newer wins whatever their order.
    """
    client = kv.client(settings.REDIS_URL)
    try:
        with client.pipeline() as pipe:
            while True:
                pipe.watch(wire.ROUTES_CURRENT)
                signed_at, there = _there(pipe)
                newest = RoutingRevision.objects.first()
                if newest is None or there == newest.number:
                    return True
                pipe.multi()
                # Later than what is there, whatever our clock says: nobody goes back to an older signature.
                at = max(clock.wall(), signed_at + 0.001)
                signed = settings.REVISION_SIGNER.close(wire.ROUTES_CURRENT, newest.document.encode(), at)
                pipe.set(wire.ROUTES_CURRENT, signed)
                pipe.publish(wire.ROUTES_CHANNEL, str(newest.number))
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                return True
    except redis.RedisError as error:
        log.warning("Redis can't be reached (%s); the rules of routing are handed out when it is back.", error)
        return False


def _there(pipe: Any) -> tuple[float, int]:
    """What Redis has: when it was signed, and its number; nothing when that is not by us."""
    try:
        data = pipe.get(wire.ROUTES_CURRENT)
        if data is None:
            return 0.0, -1
        signed = settings.REVISION_SIGNER.open(wire.ROUTES_CURRENT, data)
        return signed.at, msgspec.json.decode(signed.body, type=_Head).revision
    except (Refused, msgspec.DecodeError):
        settings.WIRE.pass_over(REFUSED, wire.ROUTES_CURRENT)
    except redis.ResponseError as error:
        if not is_spoilt(error):
            raise
        settings.WIRE.pass_over(MALFORMED, wire.ROUTES_CURRENT)
    return 0.0, -1
