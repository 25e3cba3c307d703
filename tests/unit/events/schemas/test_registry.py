"""What is published keeps to a registered version, and a version is registered only if its readers can live with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.events.actions import publish, publish_all
from apps.events.models import Event, OutboxMessage, PublishedKey
from apps.events.schemas import registry
from apps.events.schemas.checking import NoSchema, UnknownSchema
from apps.events.schemas.compat import Mode
from apps.events.schemas.models import EventType, SchemaReader, SchemaVersion
from apps.events.storing import Draft
from services.kit.events.cloudevent import EventError, decode, encode
from services.kit.events.contracts import Contracts
from services.kit.events.schema import SchemaError, Violation, schema, uri

pytestmark = pytest.mark.django_db

TYPE = "business.order.placed"
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def thing(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


V1 = thing({"id": TEXT}, "id")
V2 = thing({"id": TEXT, "total": NUMBER}, "id")
OTHER = thing({"id": NUMBER}, "id")


def register(document: Any = V1, **options: Any) -> registry.Registered:
    return registry.register(TYPE, document, author="ada", **options)


# -- publishing ---------------------------------------------------------------------------------------------------


def test_an_event_that_violates_the_newest_version_is_refused_with_the_path_and_nothing_is_stored() -> None:
    register(V1)
    register(V2)
    drafts = [Draft(TYPE, {"id": "1", "total": 2}), Draft(TYPE, {"id": "2", "total": "3"})]
    with pytest.raises(Violation) as refused:
        publish_all(drafts, idempotency_key="once")
    assert [fault.pointer for fault in refused.value.faults] == ["/total"]
    assert refused.value.problem().document()["dataschema"] == uri(TYPE, 2)
    assert not Event.objects.exists() and not OutboxMessage.objects.exists() and not PublishedKey.objects.exists()
    drafts[1] = Draft(TYPE, {"id": "2", "total": 3})
    assert len(publish_all(drafts, idempotency_key="once")) == 2, "the key is still free"


def test_an_event_says_on_the_wire_which_schema_its_data_keeps_to() -> None:
    register(V1)
    event = publish(TYPE, {"id": "1"}).as_cloudevent()
    assert event.dataschema == decode(encode(event)).dataschema == uri(TYPE, 1)
    assert Event.objects.get().schema_version == 1


def test_a_publisher_may_still_write_an_earlier_version_but_none_that_is_not_there() -> None:
    register(V1)
    register(thing({"id": TEXT, "total": NUMBER}, "id", "total"), force=True)
    assert publish(TYPE, {"id": "1"}, schema_version=1).schema_version == 1
    with pytest.raises(Violation):
        publish(TYPE, {"id": "1"})
    with pytest.raises(UnknownSchema):
        publish(TYPE, {"id": "1"}, schema_version=3)


def test_a_type_without_a_schema_is_let_through_unless_its_domain_is_strict(settings: Any) -> None:
    assert publish(TYPE, {"anything": 1}).as_cloudevent().dataschema == ""
    settings.STRICT_DOMAINS = frozenset({"business"})
    with pytest.raises(NoSchema) as refused:
        publish(TYPE, {"anything": 1})
    assert isinstance(refused.value, EventError)
    publish("system.thing.happened", {})


def test_a_schema_costs_publishing_one_query_however_many_events() -> None:
    register(V1)
    publish(TYPE, {"id": "0"})
    with CaptureQueriesContext(
        connection,
    ) as queries:
        publish_all([Draft(TYPE, {"id": str(n)}) for n in range(50)])
    assert sum("schemaversion" in one["sql"] or "eventtype" in one["sql"] for one in queries) == 1


# -- registering --------------------------------------------------------------------------------------------------


def test_versions_count_up_and_the_same_document_is_the_same_version() -> None:
    assert (register(V1).version, register(V2).version) == (1, 2)
    again = register(dict(reversed(V2.items())))
    assert (again.version, again.new) == (2, False)
    assert SchemaVersion.objects.count() == 2


def test_what_breaks_a_reader_is_refused_and_changes_nothing() -> None:
    register(V1)
    with pytest.raises(registry.Incompatible) as refused:
        register(OTHER)
    document = refused.value.problem().document()
    assert (document["status"], document["failure"]) == (409, "schema_incompatible")
    assert document["verdict"]["breaks"][0]["path"] == "/properties/id/type"
    assert EventType.objects.get().newest == 1


def test_a_consumer_that_would_break_is_named() -> None:
    register(V2)
    SchemaReader.objects.create(event_type=TYPE, consumer="ledger", needs=thing({"total": NUMBER}))
    registry.set_mode(TYPE, Mode.BACKWARD)
    with pytest.raises(registry.Incompatible, match="ledger") as refused:
        register(thing({"id": TEXT, "total": TEXT}, "id"))
    verdict = refused.value.problem().document()["verdict"]
    assert [one["name"] for one in verdict["consumers"] if one["breaks"]] == ["ledger"]


def test_a_dry_run_tells_and_changes_nothing() -> None:
    register(V1)
    found = register(OTHER, dry=True)
    assert (found.version, found.new, found.verdict.compatible) == (2, False, False)
    assert register(V2, dry=True).verdict.compatible
    assert SchemaVersion.objects.count() == 1


def test_force_and_mode_none_let_it_pass_and_say_so() -> None:
    register(V1)
    register(OTHER, force=True)
    assert SchemaVersion.objects.get(version=2).forced
    registry.set_mode(TYPE, Mode.NONE)
    register(V1)
    assert not SchemaVersion.objects.get(version=3).forced


@pytest.mark.parametrize("document", [{"type": "objekt"}, {"$ref": "http://example.com/x"}, [], None])
def test_what_is_no_schema_is_not_registered(document: Any) -> None:
    with pytest.raises(SchemaError):
        register(document)
    assert not EventType.objects.exists()


# -- files --------------------------------------------------------------------------------------------------------


def test_the_schemas_of_this_project_are_loaded_and_loading_again_changes_nothing(capsys: Any) -> None:
    call_command("schemas")
    assert "version 1 of business.transaction.recorded" in capsys.readouterr().out
    recorded = EventType.objects.get(name="business.transaction.recorded")
    assert (recorded.newest, recorded.producers) == (1, ["covenant"])
    assert [reader.name for reader in registry.readers("business.transaction.recorded")] == ["mint"]
    assert EventType.objects.get(name="system.configuration.published").producers == ["mission-control"]
    # What the kit has in files, whoever consumes publishes: the folder's name is nobody's.
    EventType.objects.filter(name="control.consumer.started").update(producers=["kit"])
    call_command("schemas")
    assert "control.consumer.started" in capsys.readouterr().out
    assert not [row.name for row in EventType.objects.all() if "kit" in row.producers]
    call_command("schemas")
    assert capsys.readouterr().out == ""


def files(*publishes: Any, consumes: Any = None) -> Contracts:
    needs = [] if consumes is None else [schema(TYPE, 1, consumes)]
    return Contracts([schema(TYPE, n, document) for n, document in enumerate(publishes, 1)], needs)


def test_a_file_that_rewrites_a_registered_version_is_refused_whole() -> None:
    registry.load([("orders", files(V1))])
    with pytest.raises(registry.Refused, match="a version never changes"):
        registry.load([("mail", files(consumes=V1)), ("orders", files(V2))])
    assert not SchemaReader.objects.exists()


def test_a_new_file_that_breaks_a_consumers_file_is_refused_naming_it() -> None:
    registry.load([("orders", files(V1)), ("mail", files(consumes=thing({"id": TEXT}, "id")))])
    with pytest.raises(registry.Incompatible, match="mail"):
        registry.load([("orders", files(V1, thing({})))])


def test_a_missing_version_is_missed() -> None:
    with pytest.raises(registry.Refused, match="version 1 is missing"):
        registry.load([("orders", Contracts([schema(TYPE, 2, V1)]))])


def test_a_consumer_that_reads_no_more_is_forgotten() -> None:
    registry.load([("mail", files(consumes=V1))])
    registry.load([("mail", files())])
    assert registry.readers(TYPE) == []


def test_the_command_says_what_is_wrong_with_a_file(tmp_path: Any) -> None:
    folder = tmp_path / "orders" / "schemas" / "publishes"
    folder.mkdir(parents=True)
    (folder / f"{TYPE}.1.json").write_text("{")
    with pytest.raises(CommandError, match=f"{TYPE}.1.json"):
        call_command("schemas", str(tmp_path))


@pytest.mark.parametrize("named", ["", "greeter"])
def test_the_command_takes_a_services_folder_or_the_one_above_it(tmp_path: Any, named: str) -> None:
    folder = tmp_path / "greeter" / "schemas" / "publishes"
    folder.mkdir(parents=True)
    (folder / f"{TYPE}.1.json").write_text(json.dumps(V1))
    call_command("schemas", str(tmp_path / named))
    assert EventType.objects.get(name=TYPE).producers == ["greeter"]


def test_the_command_says_that_a_folder_has_no_schemas(tmp_path: Any) -> None:
    with pytest.raises(CommandError, match="name the service's folder"):
        call_command("schemas", str(tmp_path))
