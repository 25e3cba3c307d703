"""The log's pages, asked as a browser asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from apps.dashboard.events import browse, catalogue, deliveries, subscriptions, tester
from apps.events import sequencer
from apps.events.actions import publish_all
from apps.events.aggregate import KNOWN, Aggregate, Fact, execute, know
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, SchemaReader
from apps.events.schemas.registry import register
from apps.events.storing import Draft
from apps.events.subscriptions.models import Attempt, Subscription
from apps.events.subscriptions.queries import readers
from apps.lib import roles
from apps.lib.clock import wall
from services.kit.events import patterns

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def away(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.CLICKHOUSE_URL = "http://127.0.0.1:1"
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}


@pytest.fixture
def viewer(client: Client) -> Client:
    made = User.objects.create_user("ann", password="long enough to pass")
    made.groups.add(Group.objects.get_or_create(name=roles.VIEWER)[0])
    client.force_login(made)
    return client


@pytest.fixture
def counter() -> Iterator[Aggregate[int, int]]:
    made: Aggregate[int, int] = know(
        Aggregate("tally", 0, lambda state, command: [Fact("shop.tally.grown", {"by": command})], _evolve)
    )
    yield made
    KNOWN.pop("tally")


def _evolve(state: int, fact: Fact) -> int:
    return state + int(fact.data["by"])


def orders(count: int, **more: Any) -> list[Event]:
    return placed(
        [Draft("shop.order.placed", {"order": n, "to": "Thandi"}, subject=f"order/{n}", **more) for n in range(count)]
    )


def placed(drafts: list[Draft]) -> list[Event]:
    """Published, and with their positions."""
    events = publish_all(drafts)
    sequencer.number()
    return list(Event.objects.filter(pk__in=[event.pk for event in events]).order_by("pk"))


def text_of(client: Client, path: str, status: int = 200, **query: str) -> str:
    answer = client.get(path, query)
    assert answer.status_code == status, answer.content.decode()[:2000]
    return answer.content.decode()


def test_an_empty_log_says_how_to_publish_the_first_event(viewer: Client) -> None:
    text = text_of(viewer, "/events/")
    assert "Nothing was published yet" in text and "/api/v1/events" in text


def test_every_filter_narrows_and_stays_in_the_address(viewer: Client) -> None:
    orders(3, tags=("city:durban",))
    placed([Draft("system.clock.wound", {"by": "é"})])
    newest = Event.objects.latest("pk")
    for query, count in (
        ({"type": "shop.#"}, 3),
        ({"type": "shop.#", "subject": "order/1"}, 1),
        ({"tag": "city:durban"}, 3),
        ({"stream": "order/2"}, 1),
        ({"source": "nobody"}, 0),
        ({"correlation_id": newest.correlation_id}, 1),
        ({"q": "thandi order/2"}, 1),
        ({"q": "é"}, 1),
        ({"q": newest.event_id}, 1),
        ({"range": "1h"}, 4),
        ({"until": "2001-01-01T00:00:00Z"}, 0),
    ):
        text = text_of(viewer, "/events/", **query)
        assert text.count("data-position=") == count, query
        assert all(f'value="{value}"' in text for name, value in query.items()), query


@pytest.mark.parametrize(
    "query",
    [{"type": "A B"}, {"type": "#.#.#.#.#"}, {"since": "yesterday"}, {"subject": "x" * 300}, {"cursor": "zzz"}],
)
def test_what_can_not_be_asked_is_answered_in_a_sentence(viewer: Client, query: dict[str, str]) -> None:
    text = text_of(viewer, "/events/", 400, **query)
    assert 'role="alert"' in text and "Traceback" not in text


def test_pages_follow_each_other_without_a_gap(viewer: Client) -> None:
    orders(120)
    seen: list[str] = []
    query: dict[str, str] = {"type": "shop.#"}
    for _ in range(5):
        answer = viewer.get("/events/", query)
        seen += [str(one.position) for one in answer.context["found"].events]
        if not answer.context["found"].older:
            break
        query["cursor"] = answer.context["found"].older
    assert seen == [str(n) for n in range(120, 0, -1)]


def test_the_tail_gives_what_came_and_counts_what_it_does_not_show(viewer: Client) -> None:
    orders(browse.TAIL + 20)
    answer = viewer.get("/events/rows/", {"after": "10", "type": "shop.#"})
    assert answer["X-Position"] == str(browse.TAIL + 20) and answer["X-Skipped"] == "10"
    assert answer.content.decode().count("<tr") == browse.TAIL
    assert viewer.get("/events/rows/", {"after": "-1"}).status_code == 400
    assert viewer.get("/events/rows/", {"after": "9" * 30}).status_code == 400


def test_an_event_is_shown_beside_its_schema_with_what_violates_it(viewer: Client) -> None:
    (one,) = placed([Draft("shop.order.placed", {"order": "seven"})])
    schema = {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}
    register("shop.order.placed", schema, author="ann")
    text = text_of(viewer, f"/events/{one.event_id}/")
    assert "violates its schema" in text and text.count('data-fault="1"') == 1
    assert "waiting" in text, "the outbox has it"


def test_causes_and_effects_are_links(viewer: Client) -> None:
    (first,) = placed([Draft("shop.order.placed", {})])
    (second,) = placed([Draft("shop.order.packed", {}, causation_id=first.event_id)])
    assert f'href="/events/{first.event_id}/"' in text_of(viewer, f"/events/{second.event_id}/")


def test_an_id_that_several_gave_asks_whose(viewer: Client) -> None:
    for source in ("shop", "bank"):
        Event.objects.create(
            event_id="7",
            source=source,
            type="shop.order.placed",
            time=Event._meta.get_field("time").to_python("2030-01-01T00:00Z"),
            data={},
            stream=f"@{source}/7",
            version=1,
        )
    text = text_of(viewer, "/events/7/", 300)
    assert "/events/7/?source=shop" in text and "/events/7/?source=bank" in text
    assert "by bank" in text_of(viewer, "/events/7/", source="bank")


@pytest.mark.parametrize(
    "odd", ["nothing", "a/b/c", "%00", "x" * 300, "6f1c1c52-6a4e-4b7c-9f0a-0d6b1f6f3a11", "<script>"]
)
def test_what_is_no_event_is_not_found(viewer: Client, odd: str) -> None:
    text_of(viewer, f"/events/{odd}/", 404)
    text_of(viewer, "/events/event/", 404, id=odd)


def test_a_stream_shows_its_aggregates_state_at_any_version(viewer: Client, counter: Aggregate[int, int]) -> None:
    for by in (2, 3, 4):
        execute(counter, "a", by)
    answer = viewer.get("/events/streams/tally%2Fa/", {"version": "2"})
    assert (answer.context["now"].kind, answer.context["now"].value) == ("state", 5)
    assert [(change.before, change.after) for change in answer.context["changes"]] == [("2", "5")]
    answer = viewer.get("/events/streams/tally%2Fa/", {"version": "3", "against": "1"})
    assert [(change.before, change.after) for change in answer.context["changes"]] == [("2", "9")]
    text_of(viewer, "/events/streams/tally%2Fa/", 404, version="9")
    text_of(viewer, "/events/streams/nobody/", 404)


def test_a_stream_that_nobody_evolves_shows_payloads(viewer: Client) -> None:
    orders(1)
    answer = viewer.get("/events/streams/order%2F0/")
    assert (answer.context["now"].kind, answer.context["now"].value["order"]) == ("payload", 0)


def test_the_catalogue_knows_what_is_registered_and_what_is_only_seen(viewer: Client) -> None:
    assert "No type of event yet" in text_of(viewer, "/events/catalogue/")
    orders(2)
    register("shop.order.packed", {"type": "object"}, author="ann", producer="shop")
    text = text_of(viewer, "/events/catalogue/")
    assert "shop.order.placed" in text and "shop.order.packed" in text and "1 without a schema" in text
    assert "shop.order.packed" not in text_of(viewer, "/events/catalogue/", q="placed")
    assert "Thandi" in text_of(viewer, "/events/catalogue/shop.order.placed/")
    assert "version 1" in text_of(viewer, "/events/catalogue/shop.order.packed/")
    text_of(viewer, "/events/catalogue/shop.order.lost/", 404)


def test_a_page_costs_the_same_however_long_the_log_is(viewer: Client, django_assert_max_num_queries: Any) -> None:
    orders(5)
    with django_assert_max_num_queries(60):
        viewer.get("/events/", {"type": "shop.#"})
    orders(300)
    with django_assert_max_num_queries(60):
        viewer.get("/events/", {"type": "shop.#"})


@pytest.fixture
def hook() -> Subscription:
    return Subscription.objects.create(name="orders-hook", patterns=["shop.#"], url="https://example.org/hook")


def failed(hook: Subscription, count: int = 1) -> list[DeadLetter]:
    return [
        queue.fail(hook, one, Failure("handler", f"no price in order {n}", "Traceback …", permanent=True), wall())
        for n, one in enumerate(orders(count))
    ]


def test_letters_that_failed_alike_are_one_group(viewer: Client, hook: Subscription) -> None:
    assert "No dead letters" in text_of(viewer, "/events/dead-letters/")
    letters = failed(hook, 3)
    queue.park(hook, placed([Draft("shop.order.placed", {}, stream=letters[0].key)])[0], wall())
    answer = viewer.get("/events/dead-letters/")
    (group,) = answer.context["groups"]
    assert (group["count"], group["failed"], group["keys"]) == (3, 3, 3)
    assert answer.context["counts"]["parked"] == 1
    text = text_of(viewer, "/events/dead-letters/", fingerprint=group["fingerprint"])
    assert text.count("data-letter=") == 3
    assert (
        text_of(viewer, "/events/dead-letters/", key=letters[0].key, subscription="orders-hook").count("data-letter=")
        == 2
    )
    assert "None matches" in text_of(viewer, "/events/dead-letters/", subscription="nobody")
    assert "None matches" in text_of(viewer, "/events/dead-letters/", state="resolved")
    text_of(viewer, "/events/dead-letters/", 400, state="lost")
    text_of(viewer, "/events/dead-letters/", 400, type="A B")


def test_a_letter_shows_its_stack_its_event_and_what_waits_behind_it(viewer: Client, hook: Subscription) -> None:
    (one,) = failed(hook)
    parked = queue.park(hook, placed([Draft("shop.order.placed", {}, stream=one.key)])[0], wall())
    text = text_of(viewer, f"/events/dead-letters/{one.pk}/")
    assert "no price in order 0" in text and "Traceback …" in text and "1 more of it open" in text
    assert f"letter {one.pk}" in text_of(viewer, f"/events/dead-letters/{parked.pk}/")
    text_of(viewer, "/events/dead-letters/99999999999999/", 404)


def test_only_operators_are_offered_what_acts(viewer: Client, hook: Subscription) -> None:
    (one,) = failed(hook)
    pages = (f"/events/dead-letters/{one.pk}/", "/events/dead-letters/", "/events/subscriptions/orders-hook/")
    for path in pages:
        text = text_of(viewer, path)
        assert "data-act=" not in text and "data-redrive=" not in text and 'id="edit"' not in text, path
    User.objects.get(username="ann").groups.set([Group.objects.get_or_create(name=roles.OPERATOR)[0]])
    for path in pages:
        assert "data-act=" in text_of(viewer, path), path
    assert 'id="new"' not in text_of(viewer, "/events/subscriptions/"), "an admin makes subscriptions"


def test_a_replay_begins_with_the_part_of_the_log_that_is_looked_at(viewer: Client, hook: Subscription) -> None:
    orders(2, stream="order/7")
    Subscription.objects.create(name="mint", kind="consumer", patterns=["#"])
    pages = {
        "/events/": {},
        "/events/streams/order%2F7/": {"stream": "order/7", "types": ["shop.order.placed"]},
        "/events/catalogue/shop.order.placed/": {"types": ["shop.order.placed"]},
        "/events/subscriptions/orders-hook/": {},
    }
    for path in pages:
        assert "data-replay=" not in text_of(viewer, path) and 'id="replay"' not in text_of(viewer, path), path
    User.objects.get(username="ann").groups.set([Group.objects.get_or_create(name=roles.OPERATOR)[0]])
    for path, part in pages.items():
        answer = viewer.get(path)
        assert json.loads(answer.context["replay_part"]) == part, path
        assert answer.context["replay_into"] == [("orders-hook", "webhook")], "a service reads its broker itself"
        assert 'id="replay"' in answer.content.decode()
        assert "a new webhook" not in answer.content.decode(), "an admin makes those"
    assert "data-replay=" not in text_of(viewer, "/events/subscriptions/mint/")
    Subscription.objects.all().delete()
    assert "data-replay=" not in text_of(viewer, "/events/"), "there is nobody to replay into"


def test_a_streams_name_stays_text_in_the_replays_button(viewer: Client, hook: Subscription) -> None:
    name = """'"><script>alert(1)</script>"""
    orders(1, stream=name)
    User.objects.get(username="ann").groups.set([Group.objects.get_or_create(name=roles.OPERATOR)[0]])
    answer = viewer.get(f"/events/streams/{quote(name, safe='')}/")
    assert json.loads(answer.context["replay_part"])["stream"] == name
    assert "<script>alert" not in answer.content.decode()


def test_a_dry_run_of_a_replay_needs_nobody_to_replay_into(viewer: Client, hook: Subscription) -> None:
    orders(3)
    User.objects.get(username="ann").groups.set([Group.objects.get_or_create(name=roles.OPERATOR)[0]])
    path, asked = "/api/v1/events/jobs/replay", {"dry_run": True, "filter": {"types": ["shop.#"], "after": 1}}
    found = viewer.post(path, asked, content_type="application/json")
    assert (found.status_code, found.json()["by_type"]) == (200, {"shop.order.placed": 2})
    refused = viewer.post(path, asked | {"dry_run": False}, content_type="application/json")
    assert refused.status_code == 400 and "subscription" in refused.json()["errors"]


def test_an_odd_entry_without_an_event_has_a_page(viewer: Client, hook: Subscription) -> None:
    (one,) = failed(hook)
    DeadLetter.objects.filter(pk=one.pk).update(stored=None, body="<not json>", type="", source="")
    text = text_of(viewer, f"/events/dead-letters/{one.pk}/")
    assert "An odd entry" in text and "&lt;not json&gt;" in text


def test_subscriptions_say_how_they_are(viewer: Client, hook: Subscription) -> None:
    failed(hook, 2)
    Subscription.objects.create(name="mint", kind="consumer", patterns=["business.#"])
    Subscription.objects.create(name="still", patterns=["#"], state="paused", reason="maintenance")
    text = text_of(viewer, "/events/subscriptions/")
    assert text.count("data-subscription=") == 3 and "paused" in text
    assert "reads from its broker itself" in text_of(viewer, "/events/subscriptions/mint/")
    Attempt.objects.create(
        subscription=hook,
        source="shop",
        event_id="7",
        type="shop.order.placed",
        at=timezone.now(),
        duration_ms=3,
        outcome="http_5xx",
        status=503,
        error="503 Service Unavailable",
    )
    text = text_of(viewer, "/events/subscriptions/orders-hook/")
    assert "503 Service Unavailable" in text and "/events/7/?source=shop" in text
    text_of(viewer, "/events/subscriptions/nobody/", 404)


def test_how_far_a_services_consumer_is_is_not_known_while_nobody_can_say(viewer: Client) -> None:
    Subscription.objects.create(name="mint", kind="consumer", patterns=["#"])
    for path in ("/events/subscriptions/", "/events/subscriptions/mint/", "/events/flow/"):
        orders(1)
        assert "not known" in text_of(viewer, path), path


def test_an_event_says_what_became_of_it_at_each_subscription(viewer: Client, hook: Subscription) -> None:
    (letter,) = failed(hook)
    Subscription.objects.create(name="far", patterns=["shop.*.placed"], position=10)
    Subscription.objects.create(name="behind", patterns=["#"], position=0)
    Subscription.objects.create(name="other", patterns=["bank.#"])
    answer = viewer.get(f"/events/{letter.event_id}/")
    found = {one.subscription: one.word for one in answer.context["deliveries"]}
    assert found == {"orders-hook": "dead letter", "far": "taken", "behind": "not yet"}


def paste(client: Client, event: Any, status: int = 200) -> Any:
    text = event if isinstance(event, str) else json.dumps(event)
    answer = client.post("/events/tester/", {"event": text})
    assert answer.status_code == status, answer.content.decode()[:2000]
    return answer


def test_the_tester_says_who_gets_an_event_and_why_not_the_others(viewer: Client, hook: Subscription) -> None:
    for name, more in (
        ("dear", {"filter": "data.amount > 100"}),
        ("cheap", {"filter": "data.amount < 100"}),
        ("odd", {"filter": "data.colour == 'red'"}),
        ("bank", {"patterns": ["bank.#"]}),
        ("theirs", {"source": "elsewhere"}),
        ("gone", {"filter": "this is no CEL ("}),
    ):
        Subscription.objects.create(**{"name": name, "patterns": ["shop.#"]} | more)
    SchemaReader.objects.create(event_type="shop.order.placed", consumer="mint", needs={})
    register("shop.order.placed", {"type": "object", "properties": {"amount": {"type": "string"}}}, author="ann")
    answer = paste(viewer, {"type": "shop.order.placed", "data": {"amount": 500}})
    found = {one.row.name: (one.found.matched, one.found.odd) for one in answer.context["asked"]}
    assert found == {
        "orders-hook": (True, False),
        "dear": (True, False),
        "cheap": (False, False),
        "odd": (False, True),
        "bank": (False, False),
        "theirs": (False, False),
        "gone": (False, True),
    }
    text = answer.content.decode()
    assert "no rule matches" in text and "redis" in text and "mint" in text
    (held,) = answer.context["held"]
    assert held.faults[0].pointer == "/amount" and 'data-fault="1"' in text
    assert not Event.objects.exists(), "nothing is published"


def test_an_event_of_the_log_is_tested_as_it_is(viewer: Client, hook: Subscription) -> None:
    (one,) = orders(1)
    answer = viewer.get("/events/tester/", {"event": one.event_id})
    assert answer.context["event"].id == one.event_id and answer.context["filled"] == []
    assert viewer.get("/events/tester/", {"event": "nothing"}).status_code == 200


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"type": "A B"}',
        '{"type": "shop.x", "specversion": "0.3"}',
        "[" * 100_000,
        '{"type": 7}',
        '{"type": "shop.order.placed", "id": ""}',
        "\x00",
        '{"type": "shop.order.placed", "data_base64": "AA=="}',
    ],
)
def test_what_is_no_event_is_told_why(viewer: Client, odd: str) -> None:
    assert 'role="alert"' in paste(viewer, odd, 400).content.decode()


def test_the_flow_joins_producers_types_and_subscriptions(viewer: Client, hook: Subscription) -> None:
    assert "Nothing flows yet" in text_of(viewer, "/events/flow/")
    failed(hook, 2)
    register("bank.sum.moved", {"type": "object"}, author="ann", producer="bank")
    SchemaReader.objects.create(event_type="bank.sum.moved", consumer="mint", needs={})
    answer = viewer.get("/events/flow/")
    boxes = {(box.kind, box.name) for box in answer.context["picture"].boxes}
    assert boxes >= {
        ("producer", "mission-control"),
        ("producer", "bank"),
        ("type", "bank.sum.moved"),
        ("taker", "mint"),
    }
    assert "2 dead letters" in answer.content.decode()


def test_the_flow_leaves_idle_types_of_our_own_to_a_button(viewer: Client) -> None:
    register("system.replay.done", {"type": "object"}, author="files", producer="mission-control")
    orders(1)
    text = text_of(viewer, "/events/flow/")
    assert "Show idle (1)" in text and "system.replay.done" not in text
    assert "1 type taken by nobody" in text
    assert "system.replay.done" in text_of(viewer, "/events/flow/", idle="1")
    below = text_of(viewer, "/events/flow/", under="system.replay")
    assert "system.replay.done" in below and "shop.order.placed" not in below
    assert "No type begins with" in text_of(viewer, "/events/flow/", under="shop.ord")


def test_a_long_catalogue_is_paged_by_name(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "TYPES", 2)
    for name in ("a.b.c", "b.c.d", "c.d.e"):
        register(name, {"type": "object"}, author="ann", producer="shop")
    first = text_of(viewer, "/events/catalogue/", q="shop")
    assert "b.c.d" in first and "c.d.e" not in first and "q=shop&amp;after=b.c.d" in first
    second = text_of(viewer, "/events/catalogue/", q="shop", after="b.c.d")
    assert "c.d.e" in second and "a.b.c" not in second and 'rel="next"' not in second


def test_subscriptions_come_worst_first_and_are_found_and_paged(
    viewer: Client, hook: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "SHOWN", 2)
    for name, more in (("a-fine", {}), ("b-still", {"state": "paused"}), ("z-gone", {"state": "disabled"})):
        Subscription.objects.create(
            name=name, patterns=["a.#"], position=10**9, created_at=timezone.now(), url="https://example.org/x", **more
        )
    Subscription.objects.filter(name="z-gone").update(failing_since=timezone.now())
    failed(hook, 1)

    def names(**query: str) -> list[str]:
        answer = viewer.get("/events/subscriptions/", query)
        return [one["row"].name for one in answer.context["rows"]]

    assert names() == ["z-gone", hook.name]
    assert names(**{"from": "2"}) == ["b-still", "a-fine"]
    assert names(q="A-FINE") == ["a-fine"] and names(state="paused") == ["b-still"]
    assert names(q="example.org", state="disabled") == ["z-gone"]
    assert "from=2" in text_of(viewer, "/events/subscriptions/", q="a")
    assert "None matches" in text_of(viewer, "/events/subscriptions/", q="nobody")
    assert text_of(viewer, "/events/subscriptions/", **{"from": "²"})


def test_an_event_says_first_who_did_not_take_it(viewer: Client, hook: Subscription) -> None:
    (letter,) = failed(hook, 1)
    page = text_of(viewer, f"/events/{letter.event_id}/")
    assert f"dead letter: {hook.name}" in page
    (caused,) = placed([Draft("shop.order.packed", {}, causation_id=letter.event_id)])
    assert f'href="/events/event/?id={letter.event_id}"' in text_of(viewer, f"/events/{caused.event_id}/")


def test_jobs_that_ended_long_ago_stand_below_the_letters(viewer: Client, hook: Subscription) -> None:
    now = timezone.now()
    more = {"kind": "redrive", "subscription": hook, "actor": "ann", "created_at": now}
    late = RedriveJob.objects.create(state="done", ended_at=now - timedelta(hours=1), **more)
    new = RedriveJob.objects.create(state="done", ended_at=now, total=3, succeeded=5, **more)
    held = RedriveJob.objects.create(state="paused", **more)
    found = viewer.get("/events/dead-letters/").context
    assert found["jobs"] == [held, new] and found["earlier"] == [late]
    text = text_of(viewer, "/events/dead-letters/")
    assert text.index('id="letters"') < text.index('id="earlier"')
    assert "of 5" in text and "of 3" not in text


def test_a_group_says_what_becomes_of_its_letters_and_offers_what_can_be_done(
    viewer: Client, hook: Subscription
) -> None:
    mixed = failed(hook, 3)
    DeadLetter.objects.filter(pk=mixed[0].pk).update(state="retrying")
    viewer.force_login(User.objects.create_superuser("root", password="long enough to pass"))
    text = text_of(viewer, "/events/dead-letters/")
    assert "2 given up · 1 tried again" in text and "Discard these 2?" in text
    DeadLetter.objects.filter(subscription=hook).update(state="retrying")
    text = text_of(viewer, "/events/dead-letters/")
    assert ("Try now" in text and "&quot;state&quot;: &quot;retrying&quot;" in text) or '"state": "retrying"' in text


def test_whoever_wants_an_event_is_found_among_many_who_do_not(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MOST", 2)
    monkeypatch.setattr(tester, "MOST", 2)
    (one,) = orders(1)
    Subscription.objects.bulk_create(Subscription(name=f"a{n}", patterns=["bank.#"]) for n in range(9))
    Subscription.objects.create(name="zebra", patterns=["shop.#"], position=10**9)
    assert "zebra" in text_of(viewer, f"/events/{one.event_id}/")
    answer = viewer.get("/events/tester/", {"event": one.event_id})
    assert [asked.row.name for asked in answer.context["asked"]] == ["zebra", "a0"]
    assert "8 more subscriptions are not listed: they do not get it" in answer.content.decode()


def test_readers_of_many_types_are_those_whose_patterns_match_one_by_one() -> None:
    wanted = ["#", "*.order.placed", "shop.#", "shop.order.*", "shop", "bank.sum.moved", "shop.*.#"]
    for n, one in enumerate(wanted):
        Subscription.objects.create(name=f"s{n}", patterns=[one, "bank.#"][: 1 + n % 2])
    rows = dict(Subscription.objects.values_list("name", "patterns"))
    types = ["shop.order.placed", "shop", "bank.sum.moved", "shopping.order.placed", "post.card.sent"]
    assert readers(types) == {
        type: sorted(name for name, said in rows.items() if any(patterns.matches(one, type) for one in said))
        for type in types
    }
