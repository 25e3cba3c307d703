"""Rules of routing: written by REST and in admin, refused with a reason, published, handed out and explained."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from apps.events.actions import publish
from apps.events.routing import actions
from apps.events.routing.models import RoutingRevision, RoutingRule
from apps.events.routing.queries import Unread, explain, newest, unread
from apps.events.sequencer import number as number_events
from apps.events.subscriptions.models import Subscription
from apps.lib import wire
from apps.people.actions import issue
from services.kit import signature
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.routing import NOTHING, Document, Rule
from services.kit.events.transport.redis_rules import Rules
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

AT = "/api/v1/events/routes"
RULE = {"name": "money", "pattern": "business.#", "broker": "kafka"}


@pytest.fixture(autouse=True)
def brokers(settings: Any, redis_url: str) -> None:
    settings.REDIS_URL = redis_url
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    settings.BUS_DEFAULT = "redis"
    settings.BUS_URLS = {"redis": redis_url, "kafka": "kafka://127.0.0.1:1"}


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("ada", password="a long password of hers")


@pytest.fixture
def api(admin: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue(admin, 'test')[1]}")
    return client


def handed_out(url: str) -> Document:
    with redis.Redis.from_url(url) as client:
        signed: Any = client.get(wire.ROUTES_CURRENT)
    return msgspec.json.decode(signature.verifier().open(wire.ROUTES_CURRENT, signed).body, type=Document)


def test_a_rule_is_published_as_it_is_saved_and_noted_in_the_audit_trail(api: APIClient, redis_url: str) -> None:
    made = api.post(AT, RULE)
    assert made.status_code == 201, made.content
    assert handed_out(redis_url).rules == (Rule("business.#", "kafka", name="money"),)
    assert api.patch(f"{AT}/money", {"topic": "ledger", "order": 5}).status_code == 200
    assert handed_out(redis_url).rules == (Rule("business.#", "kafka", "ledger", name="money"),)
    assert api.patch(f"{AT}/money", {"note": "only a word"}).status_code == 200
    assert RoutingRevision.objects.count() == 2, "a note changes no route"
    assert [row["name"] for row in api.get(AT).json()["results"]] == ["money"]
    assert api.delete(f"{AT}/money").status_code == 204
    last = handed_out(redis_url)
    assert last.rules == ()
    assert set(last.former) == {
        Rule("#", "default"),
        Rule("business.#", "kafka"),
        Rule("business.#", "kafka", "ledger"),
    }
    assert {(row.action, row.actor.username) for row in LogEntry.objects.get_for_model(RoutingRule)} == {  # type: ignore[union-attr]
        (action, "ada") for action in (LogEntry.Action.CREATE, LogEntry.Action.UPDATE, LogEntry.Action.DELETE)
    }


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"broker": "rabbitmq"}, "broker", "AMQP_URL is not set here. Known are default, redis, kafka."),
        ({"broker": "nats"}, "broker", "not a valid choice"),
        ({"pattern": "business..#"}, "pattern", "neither a lower-case word"),
        ({"pattern": "#.#.#.#"}, "pattern", "at most 3 times"),
        ({"pattern": "x" * 200}, "pattern", "no more than 128"),
        ({"topic": "Or ders"}, "topic", "lower-case"),
        ({"key": "partition_key"}, "key", "lower-case letters and digits"),
        ({"order": -1}, "order", "greater than or equal to 0"),
        ({"name": "A"}, "name", "starting with a letter"),
    ],
)
def test_a_rule_that_can_not_be_followed_is_refused_beside_its_field(
    api: APIClient, change: dict[str, Any], field: str, why: str
) -> None:
    answer = api.post(AT, RULE | change)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert why in str(answer.json()["errors"][field])
    assert not RoutingRule.objects.exists() and not RoutingRevision.objects.exists()


def test_a_broken_rule_is_refused_in_admin_too(admin: User) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root", is_staff=True))
    form = {"name": "money", "order": "1", "pattern": "business.#", "broker": "rabbitmq", "enabled": "on"}
    answer = client.post("/admin/events/routingrule/add/", form)
    assert b"AMQP_URL is not set here" in answer.content and not RoutingRule.objects.exists()
    answer = client.post("/admin/events/routingrule/add/", form | {"broker": "kafka"})
    assert answer.status_code == 302
    assert newest().rules == (Rule("business.#", "kafka", name="money"),)


def test_redis_is_brought_up_to_date_after_it_lost_or_was_given_something(api: APIClient, redis_url: str) -> None:
    api.post(AT, RULE)
    with redis.Redis.from_url(redis_url) as client:
        for spoil in (
            lambda: client.delete(wire.ROUTES_CURRENT),
            lambda: client.set(wire.ROUTES_CURRENT, "mc1:x:1:{}"),
        ):
            spoil()
            assert actions.deliver()
            assert handed_out(redis_url).rules
    assert RoutingRevision.objects.count() == 1


class Follower:
    """Somebody who follows the rules, as relay and services do."""

    def __init__(self, url: str, folder: Path) -> None:
        self.got: list[Document] = []
        self.file = folder / "routes"
        self.rules = Rules(url, signature.verifier(), self.file, self.got.append)

    async def hears(self, count: int) -> Document:
        await asyncio.to_thread(until, lambda: len(self.got) == count, what=f"{count} documents")
        return self.got[-1]


def signed(document: Document | bytes, at: float, by: Any = None) -> bytes:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return bytes((by or signature.signer()).close(wire.ROUTES_CURRENT, body, at))


async def test_followers_believe_what_the_control_plane_signed_and_only_go_forward(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(redis_url, tmp_path)
    now = time.time()
    one, two = (Document(number, (Rule("business.#", broker),)) for number, broker in ((1, "kafka"), (2, "redis")))
    client = redis.asyncio.Redis.from_url(redis_url)
    stranger = signature.Signer("somebody else")

    async def say(data: bytes) -> None:
        await client.set(wire.ROUTES_CURRENT, data)
        await client.publish(wire.ROUTES_CHANNEL, "")

    await follower.rules.start()
    await say(signed(one, now))
    assert await follower.hears(1) == one
    await say(signed(two, now + 1))
    assert await follower.hears(2) == two
    odd = {
        "did not sign": signed(Document(9, (Rule("#", "kafka"),)), now + 9, stranger),
        "format 2": signed(b'{"format":2,"revision":9}', now + 9),
        "can't be read": signed(b'{"format":1,"revision":9,"rules":[{"pattern":"..","broker":"kafka"}]}', now + 9),
        "older than those in use": signed(one, now),
        "not sealed": b"nonsense",
    }
    for words, data in odd.items():
        await say(data)
        await asyncio.to_thread(until, lambda words=words: words in caplog.text, what=words)
    await client.delete(wire.ROUTES_CURRENT)
    await client.lpush(wire.ROUTES_CURRENT, "another type")  # type: ignore[misc]
    await client.publish(wire.ROUTES_CHANNEL, "")
    await client.delete(wire.ROUTES_CURRENT)
    restored = Document(1, (Rule("system.#", "kafka"),))
    await say(signed(restored, now + 10))
    assert await follower.hears(3) == restored, "a database that was restored counts anew"
    await follower.rules.stop()
    await client.aclose()


async def test_the_last_good_rules_serve_while_redis_is_away(redis_url: str, tmp_path: Path) -> None:
    document = Document(3, (Rule("business.#", "kafka"),))
    client = redis.asyncio.Redis.from_url(redis_url)
    await client.set(wire.ROUTES_CURRENT, signed(document, time.time()))
    first = Follower(redis_url, tmp_path)
    await first.rules.start()
    assert await first.hears(1) == document
    await first.rules.stop()
    await client.aclose()
    later = Follower("redis://127.0.0.1:1/0", tmp_path)
    await later.rules.start()
    assert later.got == [document]
    await later.rules.stop()
    assert oct(first.file.stat().st_mode)[-3:] == "600"
    first.file.write_bytes(b"half a docu")
    spoilt = Follower("redis://127.0.0.1:1/0", tmp_path)
    await spoilt.rules.start()
    assert spoilt.got == []
    await spoilt.rules.stop()


def test_an_explanation_names_targets_rules_and_schemas(api: APIClient) -> None:
    event = CloudEvent("1", "business.order.placed", "/shop", 0.0, {}, subject="s", partition_key="p")
    assert newest() == NOTHING
    [plain] = explain(event).targets
    assert (plain.broker, plain.topic, plain.key, plain.rule) == ("redis", "business", "p", "")
    api.post(AT, RULE)
    api.post(AT, {"name": "all", "pattern": "#", "broker": "redis", "topic": "all", "key": "subject", "order": 200})
    api.post(AT, {"name": "other", "pattern": "system.#", "broker": "kafka", "order": 300})
    found = explain(event)
    assert [(one.broker, one.topic, one.key, one.rule) for one in found.targets] == [
        ("kafka", "business", "p", "money"),
        ("redis", "all", "s", "all"),
    ]
    assert [(one.rule.name, one.matches) for one in found.rules] == [("money", True), ("all", True), ("other", False)]
    assert found.rules[2].why == "segment 1 is business, and the pattern asks for system"


def test_a_type_that_nobody_asks_for_is_counted_and_stands_on_the_system_page(admin: User) -> None:
    for number in range(3):
        publish("business.order.placed", {"n": number})
    publish("system.thing.happened", {})
    while number_events():
        pass
    Subscription.objects.create(name="mail", patterns=["system.#"])
    Subscription.objects.create(name="archive", kind=Subscription.Kind.CONSUMER, patterns=["#"])
    Subscription.objects.create(name="gone", state=Subscription.State.DISABLED, patterns=["business.#"])
    Subscription.objects.create(name="odd", patterns=["..", 7, None])
    assert unread() == [Unread("business.order.placed", 3)]
    client = Client()
    client.force_login(admin)
    assert b'data-unread="business.order.placed"' in client.get("/system/").content
    Subscription.objects.create(name="orders", patterns=["business.order.*"])
    assert unread() == []
