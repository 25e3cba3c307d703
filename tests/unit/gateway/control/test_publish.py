"""Publishing: one transaction with the change, once per content, to Redis when it is there and when it is back."""

from __future__ import annotations

import threading
import time
from importlib import import_module
from typing import Any

import pytest
import redis
from django.apps import apps
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.events.models import Event
from apps.gateway import actions
from apps.gateway.core import config
from apps.gateway.models import (
    ApiKey,
    BreakerOverride,
    ConfigRevision,
    JwtIssuer,
    RateLimitPolicy,
    Route,
    ServicePolicy,
)
from apps.gateway.revisions import Immutable
from apps.lib import wire
from apps.lib.writes import ChangeRefused
from apps.registry.models import Instance, Service
from missioncontrol import keys
from tests.unit.gateway.control.conftest import World, make_world


def served(url: str) -> config.Document:
    with redis.Redis.from_url(url) as client:
        return config.decode(keys.verifier().open(wire.CONFIG_CURRENT, client.get(wire.CONFIG_CURRENT)).body)


def test_the_document_says_what_the_database_says(world: World, no_redis: None) -> None:
    Instance.objects.create(service=world.service, name="ledger-2", url="http://10.0.0.1:1", enabled=False)
    JwtIssuer.objects.create(name="i", issuer="https://i", audience="a", jwks_url="https://i/jwks", enabled=False)
    Route.objects.create(name="off", service=world.service, path="/off", enabled=False)
    BreakerOverride.objects.create(service=world.service, state="open", reason="test", by="me")
    row, key = actions.issue_key(world.consumer, author="me")
    made = actions.document()
    assert [service.name for service in made.services] == ["ledger"]
    assert [instance.name for instance in made.services[0].instances] == ["ledger-1"]
    assert made.services[0].fleet and made.services[0].breaker.override == "open"
    assert [(route.name, route.enabled) for route in made.routes] == [("ledger", True), ("off", False)]
    assert made.routes[0].rate_limit == "standard"
    assert [(issuer.name, issuer.enabled) for issuer in made.issuers] == [("i", False)]
    assert made.keys[0].prefix == row.prefix and made.keys[0].hash == actions.hash_key(key)
    assert config.decode(config.encode(made)) == made


def test_what_ejects_an_instance_and_what_a_service_holds_reach_the_document(world: World, no_redis: None) -> None:
    outlier = {"consecutive_failures": 2, "failure_rate": 0.3, "base_ejection_time": 7.0, "max_ejected": 0.2}
    ServicePolicy.objects.create(service=world.service, max_in_flight=40, panic_threshold=0.0, **outlier)
    Route.objects.update(per_try_timeout=1.5)
    made = actions.document()
    service = made.services[0]
    assert service.outlier == config.Outlier(**outlier)  # type: ignore[arg-type]
    assert (service.max_in_flight, service.panic_threshold, made.routes[0].per_try_timeout) == (40, 0.0, 1.5)


def test_a_publication_is_numbered_stored_and_announced(world: World, no_redis: None) -> None:
    first = actions.publish("me", "because")
    assert (first.revision, first.new) == (1, True)
    revision = ConfigRevision.objects.get(number=1)
    assert revision.author == "me" and revision.reason == "because"
    stored = config.decode(revision.document.encode())
    assert stored.revision == 1 and stored.digest == revision.digest
    event = Event.objects.get(type="system.configuration.published")
    assert event.subject == "1" and event.data["author"] == "me"


def test_the_same_content_is_not_published_twice(world: World, no_redis: None) -> None:
    actions.publish("me")
    again = actions.publish("me")
    assert (again.revision, again.new) == (1, False)
    assert ConfigRevision.objects.count() == 1


def test_a_whole_that_does_not_hold_is_refused_with_the_field(world: World, no_redis: None) -> None:
    actions.publish("me")
    with pytest.raises(ChangeRefused, match="both match /ledger") as caught, transaction.atomic():
        Route.objects.create(name="second", service=world.service, path="/ledger")
        actions.publish("me")
    assert caught.value.field == "path"
    assert not Route.objects.filter(name="second").exists()
    assert ConfigRevision.objects.count() == 1


def test_history_can_not_be_changed(world: World, no_redis: None) -> None:
    actions.publish("me")
    revision = ConfigRevision.objects.get()
    revision.author = "someone else"
    with pytest.raises(Immutable):
        revision.save()
    with pytest.raises(Immutable):
        revision.delete()


def test_a_revision_written_in_an_older_shape_does_not_stop_the_next(world: World, no_redis: None) -> None:
    ConfigRevision.objects.create(number=7, digest="0" * 64, document='{"old":1}', summary="", author="x")
    assert actions.publish("me").revision == 8


@pytest.mark.django_db(transaction=True)
def test_workers_hear_of_a_revision_after_the_commit_and_not_before(published_redis: str) -> None:
    world = make_world()
    with redis.Redis.from_url(published_redis) as client, client.pubsub() as heard:
        heard.subscribe(wire.CONFIG_CHANNEL)
        assert heard.get_message(timeout=5)["type"] == "subscribe"
        with transaction.atomic():
            publication = actions.publish("me")
            assert client.get(wire.CONFIG_CURRENT) is None and publication.delivered is None
        assert publication.delivered is True
        assert heard.get_message(timeout=5)["data"] == b"1"
    assert served(published_redis).routes[0].name == world.route.name


@pytest.mark.django_db(transaction=True)
def test_a_change_that_is_rolled_back_reaches_nobody(published_redis: str) -> None:
    make_world()
    with pytest.raises(RuntimeError), transaction.atomic():
        actions.publish("me")
        raise RuntimeError
    with redis.Redis.from_url(published_redis) as client:
        assert client.get(wire.CONFIG_CURRENT) is None
    assert ConfigRevision.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_a_revision_stored_while_redis_was_away_is_delivered_when_it_is_back(redis_url: str, settings: Any) -> None:
    make_world()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    publication = actions.publish("me")
    assert publication.delivered is False and ConfigRevision.objects.count() == 1
    assert actions.reconcile() is False
    settings.REDIS_URL = redis_url
    assert actions.reconcile() is True
    assert served(redis_url).revision == 1


@pytest.mark.django_db(transaction=True)
def test_an_emptied_redis_and_one_from_another_database_are_put_right(published_redis: str) -> None:
    make_world()
    actions.publish("me")
    with redis.Redis.from_url(published_redis) as client:
        for wrong in (None, b"not json", b'{"revision":99,"created_at":1.0,"digest":"f"}'):
            client.delete(wire.CONFIG_CURRENT) if wrong is None else client.set(wire.CONFIG_CURRENT, wrong)
            assert actions.reconcile() is True
            assert served(published_redis).revision == 1
        client.delete(wire.CONFIG_CURRENT)
        client.hset(wire.CONFIG_CURRENT, "a", "hash")
        assert actions.reconcile() is True
        assert served(published_redis).revision == 1
        before = client.info("stats")["total_commands_processed"]
        actions.reconcile()
        assert client.info("stats")["total_commands_processed"] - before <= 4


@pytest.mark.django_db(transaction=True)
def test_every_delivery_is_signed_later_than_what_was_there(published_redis: str) -> None:
    """Also when our clock was ahead and went back: gateways never take an older signature."""
    world = make_world()
    actions.publish("me")
    ahead = time.time() + 3600
    with redis.Redis.from_url(published_redis) as client:
        old = ConfigRevision.objects.get()
        client.set(wire.CONFIG_CURRENT, keys.signer().close(wire.CONFIG_CURRENT, old.document.encode(), ahead))
        Route.objects.filter(pk=world.route.pk).update(path="/other")
        actions.publish("me")
        assert keys.verifier().open(wire.CONFIG_CURRENT, client.get(wire.CONFIG_CURRENT)).at > ahead


@pytest.mark.django_db(transaction=True)
def test_of_two_publishers_at_once_the_last_revision_holds_both_changes(published_redis: str) -> None:
    make_world()
    actions.publish("me")
    started, failures = threading.Barrier(4), []

    def change(number: int) -> None:
        try:
            started.wait(10)
            for step in range(3):
                with transaction.atomic():
                    RateLimitPolicy.objects.create(name=f"limit-{number}-{step}", requests=1)
                    actions.publish(f"author-{number}")
        except Exception as error:  # noqa: BLE001 - a failure of the thread is the test's failure
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert list(ConfigRevision.objects.order_by("number").values_list("number", flat=True)) == list(range(1, 14))
    newest = config.decode(ConfigRevision.objects.get(number=13).document.encode())
    assert len(newest.rate_limits) == 13
    assert served(published_redis) == newest


def test_a_key_is_kept_as_prefix_and_keyed_hash_alone(world: World, no_redis: None, settings: Any) -> None:
    row, key = actions.issue_key(world.consumer, author="me", name="test")
    assert key.startswith(f"mc_{row.prefix}_") and len(key.split("_")[2]) >= 32
    columns = ApiKey.objects.filter(pk=row.pk).values().get()
    assert key.split("_")[2] not in str(columns)
    settings.KEY_PEPPER = "another"
    assert actions.hash_key(key) != row.hash


def test_a_key_is_revoked_once_and_stays_in_the_document(world: World, no_redis: None) -> None:
    row, _ = actions.issue_key(world.consumer, author="me")
    assert actions.revoke_key(row, author="first") is True
    assert actions.revoke_key(row, author="second") is False
    row.refresh_from_db()
    assert row.state == "revoked" and row.revoked_by == "first"
    assert actions.document().keys[0].revoked is True


def test_a_breaker_is_held_and_released_with_a_revision_each(world: World, no_redis: None) -> None:
    actions.publish("me")
    assert actions.hold_breaker(world.service, "open", author="op", reason="storm").new
    assert actions.hold_breaker(world.service, "closed", author="op", reason="calm").new
    assert actions.document().services[0].breaker.override == "closed"
    assert actions.release_breaker(world.service, author="op", reason="over").new
    assert actions.release_breaker(world.service, author="op", reason="over").new is False
    assert "held open: storm" in ConfigRevision.objects.get(number=2).reason


def test_publishing_asks_no_more_of_the_database_for_many_services(world: World, no_redis: None) -> None:
    counts = []
    for number in range(20):
        service = Service.objects.create(name=f"s{number}")
        Instance.objects.create(service=service, name="one", url=f"http://10.0.0.{number + 1}:80")
        Route.objects.create(name=f"s{number}", service=service, path=f"/s{number}")
        with CaptureQueriesContext(connection) as queries:
            actions.publish("me")
        counts.append(len(queries))
    assert counts[-1] <= counts[1]


def test_routes_of_before_say_what_they_silently_meant(world: World, no_redis: None) -> None:
    JwtIssuer.objects.create(name="i", issuer="https://i", audience="a", jwks_url="https://i/jwks")
    Route.objects.update(allow=[], auth=["key", "jwt"])
    Route.objects.create(name="open", service=world.service, path="/open", auth=[])
    import_module("apps.gateway.migrations.0004_who_may_call").say_what_was_so(apps, None)
    ledger, public = actions.document().routes
    assert (ledger.allow, ledger.issuers, ledger.forward_credentials) == (("*",), ("i",), False)
    assert (public.auth, public.allow, public.forward_credentials) == ((), (), True)
    assert actions.document().consumers[0].subjects == ("i/demo",)
