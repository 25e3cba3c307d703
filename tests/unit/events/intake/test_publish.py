"""Publishing by REST: who may, as whom, in which forms, what is refused and why, and what a repeat does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from django.contrib.auth.models import Group, User
from django.test import Client
from rest_framework.test import APIClient

from apps.events.intake import overload
from apps.events.intake.parsers import MAX_BODY
from apps.events.models import Event, OutboxMessage
from apps.events.schemas import registry
from apps.people.actions import issue
from missioncontrol.fleet import roles
from services.kit.events.cloudevent import MAX_DATA, PROOF

pytestmark = pytest.mark.django_db

URL = "/api/v1/events"
TYPE = "business.order.placed"
STRUCTURED, BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"


class Publisher:
    """One login with a token."""

    def __init__(self, name: str = "ann", role: str = "operator") -> None:
        roles(lambda line: None)
        user = User.objects.create_user(name)
        user.groups.add(Group.objects.get(name=role))
        self.fields = {"HTTP_AUTHORIZATION": f"Bearer {issue(user, 'test')[1]}"}
        self.client = Client(raise_request_exception=False)

    def send(self, body: Any, kind: str = "application/json", query: str = "", **fields: str) -> Any:
        raw = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.client.post(URL + query, raw, content_type=kind, **(self.fields | fields))


@pytest.fixture
def ann(settings: Any) -> Publisher:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    overload.depth = overload.Depth()
    return Publisher()


def whole(**change: Any) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": "o-1", "source": "client/ann", "type": TYPE, "data": {"total": 3}}
    return event | change


def test_a_draft_needs_a_type_alone(ann: Publisher) -> None:
    answer = ann.send({"type": TYPE})
    assert answer.status_code == 202, answer.content
    [told] = answer.json()["events"]
    stored = Event.objects.get()
    assert (stored.source, stored.data, stored.event_id) == ("client/ann", {}, told["id"])
    # On SQLite whoever publishes gives the position; on PostgreSQL the sequencer does, afterwards.
    assert (told["position"], told["stream"], told["version"]) == (stored.position, "@client%2Fann/", 1)
    assert OutboxMessage.objects.get().event == stored


def test_a_structured_event_of_the_sdk_keeps_all_that_it_says(ann: Publisher) -> None:
    given = {"id": "o 1/é", "source": "client/ann/shop", "type": TYPE, "subject": "o-1", "partitionkey": "o-1"}
    given |= {"correlationid": "c", "causationid": "because", "colour": "blue"}
    message = to_structured_event(CloudEvent(given, {"total": 3}))
    answer = ann.send(message.body, message.headers["content-type"])
    assert answer.status_code == 202, answer.content
    event = Event.objects.get().as_cloudevent()
    assert (event.id, event.source, event.subject, event.data) == ("o 1/é", "client/ann/shop", "o-1", {"total": 3})
    assert (event.partition_key, event.sequence, event.extensions) == ("o-1", 1, {"colour": "blue"})
    assert (event.correlation_id, event.causation_id) == ("c", "because")


def test_a_binary_event_of_the_sdk(ann: Publisher) -> None:
    given = {
        "id": "ü-1",
        "source": "client/ann",
        "type": TYPE,
        "subject": "50% off",
        "datacontenttype": "application/json",
    }
    message = to_binary_event(CloudEvent(given, {"total": 3}))
    fields = {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in message.headers.items() if k.startswith("ce-")}
    answer = ann.send(message.body, **fields)
    assert answer.status_code == 202, answer.content
    event = Event.objects.get()
    assert (event.event_id, event.subject, event.data) == ("ü-1", "50% off", {"total": 3})


def test_a_batch_stores_the_valid_and_tells_of_each_other(ann: Publisher) -> None:
    batch = [whole(id=f"o-{n}", partitionkey="o") for n in range(4)]
    batch[1]["specversion"], batch[2]["type"] = "0.3", "placed"
    answer = ann.send(batch, BATCHED)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["refused"]) == (2, 2)
    assert [one.get("version") for one in told["events"]] == [1, None, None, 2]
    assert "specversion" in told["events"][1]["problem"]["detail"]
    assert list(Event.objects.values_list("event_id", flat=True)) == ["o-0", "o-3"]


def test_all_or_none_when_asked(ann: Publisher) -> None:
    batch = [whole(id="o-1"), whole(id="o-2", type="placed")]
    answer = ann.send(batch, BATCHED, "?atomic=true")
    assert (answer.status_code, answer.json()["failure"]) == (422, "events_refused")
    assert [one["index"] for one in answer.json()["events"]] == [1]
    assert not Event.objects.exists()


def test_what_a_schema_refuses_is_refused_at_its_place(ann: Publisher) -> None:
    document = {"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}}
    registry.register(TYPE, document, author="test")
    answer = ann.send([{"type": TYPE, "data": {"total": 3}}, {"type": TYPE, "data": {"total": "3"}}])
    assert answer.status_code == 202
    problem = answer.json()["events"][1]["problem"]
    assert (problem["failure"], problem["faults"][0]["pointer"]) == ("schema_violation", "/total")
    assert Event.objects.count() == 1
    assert ann.send({"type": TYPE, "data": {}}).json()["failure"] == "schema_violation"


@pytest.mark.parametrize(
    ("change", "status", "failure"),
    [
        ({"specversion": "0.3"}, 422, "event_refused"),
        ({"specversion": 1.0}, 422, "event_refused"),
        ({"id": ""}, 422, "event_refused"),
        ({"id": 7}, 422, "event_refused"),
        ({"id": " "}, 422, "event_refused"),
        ({"id": "\u3000"}, 422, "event_refused"),
        ({"source": "client/ann/../bob"}, 422, "event_refused"),
        ({"source": "client/ann/shop/."}, 422, "event_refused"),
        ({"source": "client/ann/%2e%2E/bob"}, 422, "event_refused"),
        ({"datacontenttype": "text/xml"}, 422, "event_refused"),
        ({"datacontenttype": "application/json; v=" + "x" * 236}, 422, "event_refused"),
        ({"datacontenttype": "application/json; v=\xe9"}, 422, "event_refused"),
        ({"datacontenttype": "application/cloudevents+json"}, 422, "event_refused"),
        ({"rank": 2**31}, 422, "event_refused"),
        ({"type": "Order"}, 422, "event_refused"),
        ({"time": "soon"}, 422, "event_refused"),
        ({"time": "2999-01-01T00:00:00Z"}, 422, "event_refused"),
        ({"time": "1999-01-01T00:00:00Z"}, 422, "event_refused"),
        ({"sequence": "3"}, 422, "event_refused"),
        ({"traceparent": "00-1"}, 422, "event_refused"),
        ({"dataschema": "https://example.org/x"}, 422, "event_refused"),
        ({"data": [1]}, 422, "event_refused"),
        ({"data": 10**400}, 422, "event_refused"),
        ({"data": {"n": "\x00"}}, 422, "event_refused"),
        ({"data": {"n": "\ud800"}}, 422, "event_refused"),
        ({"data": {"n": "x" * MAX_DATA}}, 422, "event_refused"),
        ({"data_base64": "AAAA"}, 422, "event_refused"),
        ({"partitionkey": "x" * 250}, 422, "event_refused"),
        ({PROOF: "x"}, 422, "event_refused"),
        ({"mcreplay": "7"}, 422, "event_refused"),
        ({"a" * 65: "x"}, 422, "event_refused"),
        ({f"a{n}": "x" for n in range(61)}, 422, "event_refused"),
        ({"Colour": "x"}, 422, "event_refused"),
        ({"type": "control.delivery.redrive"}, 403, "domain_reserved"),
        ({"source": "mission-control"}, 403, "source_not_yours"),
        ({"source": "covenant"}, 403, "source_not_yours"),
        ({"source": "client/bob"}, 403, "source_not_yours"),
        ({"source": "client/ann2"}, 403, "source_not_yours"),
    ],
)
def test_what_is_no_event_of_ours_is_refused(ann: Publisher, change: Any, status: int, failure: str) -> None:
    answer = ann.send(whole(**change), STRUCTURED)
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json"), answer.content
    assert answer.json()["failure"] == failure
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("{", STRUCTURED, 400),
        ("[" * 100_000, STRUCTURED, 400),
        (json.dumps({"type": TYPE, "data": json.loads('{"a":' * 100 + "1" + "}" * 100)}), "application/json", 400),
        ("[]", BATCHED, 422),
        ("{}", BATCHED, 422),
        ("7", "application/json", 422),
        ("", "application/json", 400),
        (json.dumps([{"type": TYPE}] * 1001), "application/json", 413),
        ("<a/>", "text/xml", 415),
        (b" " * (MAX_BODY + 1), STRUCTURED, 413),
        (json.dumps({"type": TYPE, "subjct": "x"}), "application/json", 422),
    ],
)
def test_what_is_no_request_is_refused(ann: Publisher, body: Any, kind: str, status: int) -> None:
    answer = ann.send(body, kind)
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json"), answer.content
    assert not Event.objects.exists()


@pytest.mark.parametrize("query", ["?atomic=maybe", "?expected_version=-1", "?expected_version=x"])
def test_odd_wishes(ann: Publisher, query: str) -> None:
    assert ann.send({"type": TYPE}, query=query).status_code == 400


def test_a_type_without_schema_in_a_strict_domain(ann: Publisher, settings: Any) -> None:
    settings.STRICT_DOMAINS = frozenset({"business"})
    assert ann.send({"type": TYPE}).status_code == 422


def test_the_same_event_again_is_the_same_answer_and_another_of_its_id_is_refused(ann: Publisher) -> None:
    first = ann.send(whole(), STRUCTURED).json()["events"][0]
    again = ann.send(whole(), STRUCTURED).json()["events"][0]
    assert again == first | {"repeated": True}
    answer = ann.send(whole(data={"total": 4}), STRUCTURED)
    assert (answer.status_code, answer.json()["failure"]) == (409, "event_id_taken")
    assert Event.objects.count() == OutboxMessage.objects.count() == 1
    # The id is another's too: it is one event's within its source alone.
    assert ann.send(whole(source="client/ann/shop"), STRUCTURED).status_code == 202


def test_twins_in_one_batch(ann: Publisher) -> None:
    told = ann.send([whole(), whole(), whole(data={})], BATCHED).json()
    assert (told["accepted"], told["refused"]) == (2, 1)
    assert told["events"][0]["position"] == told["events"][1]["position"]
    assert told["events"][2]["problem"]["failure"] == "event_id_taken"


def test_an_idempotency_key_gives_the_first_answer(ann: Publisher) -> None:
    first = ann.send({"type": TYPE}, HTTP_IDEMPOTENCY_KEY="k")
    again = ann.send({"type": TYPE}, HTTP_IDEMPOTENCY_KEY="k")
    assert (again.status_code, again.json(), again["Idempotent-Replayed"]) == (202, first.json(), "true")
    other = ann.send({"type": TYPE, "data": {"n": 1}}, HTTP_IDEMPOTENCY_KEY="k")
    assert (other.status_code, other.json()["failure"]) == (422, "idempotency_key_reused")
    # A condition is part of what was asked for, though it is not in the body.
    other = ann.send({"type": TYPE}, query="?expected_version=7", HTTP_IDEMPOTENCY_KEY="k")
    assert (other.status_code, other.json()["failure"]) == (422, "idempotency_key_reused")
    assert Event.objects.count() == 1


def test_only_at_the_version_that_was_seen(ann: Publisher) -> None:
    draft = {"type": TYPE, "partitionkey": "o-1"}
    assert ann.send(draft, query="?expected_version=0").status_code == 202
    answer = ann.send(draft, query="?expected_version=0")
    assert (answer.status_code, answer.json()["failure"], answer.json()["actual"]) == (409, "version_conflict", 1)
    assert ann.send(draft, query="?expected_version=1").status_code == 202
    answer = ann.send([draft, {"type": TYPE, "partitionkey": "o-2"}], query="?expected_version=2")
    assert answer.status_code == 422, "it speaks of one stream"
    assert Event.objects.count() == 2


def test_nobody_writes_into_a_history_of_ours(ann: Publisher) -> None:
    ann.send({"type": TYPE, "partitionkey": "account/ann"})
    assert not Event.objects.filter(stream="account/ann").exists()


def test_a_viewer_may_not(settings: Any) -> None:
    assert Publisher("eve", "viewer").send({"type": TYPE}).status_code == 403


def test_overload_is_refused_before_the_body_is_read(ann: Publisher, settings: Any) -> None:
    for _ in range(overload.AT_ONCE):
        assert overload.turns.acquire(blocking=False)
    try:
        answer = ann.send("{ never read")
    finally:
        overload.turns.release(overload.AT_ONCE)
    assert (answer.status_code, answer.json()["failure"], answer["Retry-After"]) == (503, "overloaded", "1")
    assert ann.send("{").status_code == 400
    for _ in range(2 * overload.AT_ONCE):
        assert ann.send({"type": TYPE}).status_code == 202, "every turn was given back"
    settings.OUTBOX_MOST = 2 * overload.AT_ONCE - 1
    overload.depth = overload.Depth()
    answer = ann.send({"type": TYPE})
    assert (answer.status_code, answer.json()["failure"], answer["Retry-After"]) == (503, "bus_behind", "10")


def test_the_log_can_be_read_by_what_was_published(ann: Publisher) -> None:
    client = APIClient()
    client.force_authenticate(User.objects.get(username="ann"))
    ann.send(whole(), STRUCTURED)
    assert client.get(f"{URL}/o-1").json()["source"] == "client/ann"


def test_a_number_of_any_length_is_kept_to_its_last_digit(ann: Publisher) -> None:
    numbers = {"n": int("9" * 400), "m": -(2**70), "u": 2**64 - 1}
    assert ann.send(whole(data=numbers), STRUCTURED).status_code == 202
    assert Event.objects.get().data == numbers


def test_a_media_type_of_the_publishers_own_is_kept(ann: Publisher) -> None:
    kind = "application/vnd.shop.order+json"
    assert ann.send(whole(datacontenttype=kind), STRUCTURED).status_code == 202
    assert Event.objects.get().as_cloudevent().datacontenttype == kind
    again = ann.send(whole(datacontenttype="application/json"), STRUCTURED)
    assert (again.status_code, again.json()["failure"]) == (409, "event_id_taken")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"type": "business.order.placed", "data": {"a": "\\ud800"}}', "half of a surrogate pair"),
        (b'{"type": "business.order.placed", "data": {"a": 1, "a": 2}}', "'a' stands twice"),
        (b'{"type": "business.order.placed", "type": "business.order.lost"}', "'type' stands twice"),
        (b'{"type": "business.order.placed", "data": {"a": NaN}}', "NaN is no number of JSON"),
        (b'{"type": "business.order.placed", "data": {"a": -Infinity}}', "-Infinity is no number of JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\xef\xbb\xbf", "byte order mark"),
        ('{"type": "business.order.placed"}'.encode("utf-16"), "not UTF-8"),
        ('{"type": "business.order.placed"}'.encode("utf-16-le"), "not JSON"),
        ('{"type": "business.\xe9.placed"}'.encode("latin-1"), "not UTF-8"),
        (b'{"type": business}', "not JSON: Expecting value: line 1 column 10"),
    ],
)
def test_a_body_that_is_no_json_is_told_so_in_words_for_people(body: bytes, says: str, ann: Publisher) -> None:
    answer = ann.send(body)
    assert answer.status_code in {400, 422}
    detail = answer.json()["detail"]
    assert says in detail and "codec" not in detail and "utf-8-sig" not in detail, detail
    assert not Event.objects.exists()
