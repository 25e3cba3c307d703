"""The registry over REST and in admin: register with a dry run first, read it back, and get the catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from rest_framework.test import APIClient

from apps.events.actions import publish
from apps.events.schemas import registry
from apps.events.schemas.asyncapi import Listed, document
from apps.events.schemas.models import EventType, SchemaReader, SchemaVersion
from apps.people.actions import issue
from services.kit.events.schema import Violation

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[4]
TYPE = "business.order.placed"
AT = f"/api/v1/events/schemas/{TYPE}"
TEXT = {"type": "string"}
V1 = {"type": "object", "properties": {"id": TEXT}, "required": ["id"], "additionalProperties": False}
OTHER = {**V1, "properties": {"id": {"type": "number"}}}


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("ada", password="a long password of hers")


@pytest.fixture
def api(admin: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue(admin, 'test')[1]}")
    return client


def test_a_version_is_registered_and_read_back(api: APIClient) -> None:
    said = {"schema": V1, "producer": "orders", "reason": "first"}
    assert api.post(f"{AT}/versions", {**said, "dry_run": True}).status_code == 200
    assert not EventType.objects.exists()
    made = api.post(f"{AT}/versions", said)
    assert (made.status_code, made.json()["version"], made.json()["registered"]) == (201, 1, True)
    assert api.post(f"{AT}/versions", said).status_code == 200, "the same again is the same version"
    found = api.get(f"{AT}/versions/1").json()
    assert (found["document"], found["author"], found["reason"]) == (V1, "ada", "first")
    assert found["dataschema"] == made.json()["dataschema"]
    assert [row["version"] for row in api.get(f"{AT}/versions").json()["results"]] == [1]
    SchemaReader.objects.create(event_type=TYPE, consumer="mail", needs=V1)
    [listed] = api.get("/api/v1/events/schemas").json()["results"]
    assert listed == api.get(AT).json()
    assert (listed["producers"], listed["consumers"], listed["mode"]) == (["orders"], ["mail"], "full_transitive")


def test_what_breaks_a_consumer_is_a_409_that_names_it_and_force_must_repeat_the_type(api: APIClient) -> None:
    SchemaReader.objects.create(event_type=TYPE, consumer="mail", needs=V1)
    api.post(f"{AT}/versions", {"schema": V1})
    refused = api.post(f"{AT}/versions", {"schema": OTHER})
    assert (refused.status_code, refused.json()["failure"]) == (409, "schema_incompatible")
    [consumer] = refused.json()["verdict"]["consumers"]
    assert (consumer["name"], consumer["breaks"][0]["path"]) == ("mail", "/properties/id/type")
    tried = api.post(f"{AT}/versions", {"schema": OTHER, "dry_run": True})
    assert (tried.status_code, tried.json()["verdict"]["compatible"]) == (200, False)
    assert api.post(f"{AT}/versions", {"schema": OTHER, "force": "yes"}).status_code == 400
    assert api.post(f"{AT}/versions", {"schema": OTHER, "force": TYPE}).status_code == 201
    assert SchemaVersion.objects.get(version=2).forced


def test_a_mode_is_set_and_the_audit_trail_knows_by_whom(api: APIClient) -> None:
    api.post(f"{AT}/versions", {"schema": V1})
    assert api.patch(AT, {"mode": "none"}).json()["mode"] == "none"
    assert api.patch(AT, {"mode": "sideways"}).status_code == 400
    assert api.post(f"{AT}/versions", {"schema": OTHER}).status_code == 201
    entries = LogEntry.objects.filter(object_repr__startswith=TYPE)
    assert {(entry.actor.username if entry.actor else "") for entry in entries} == {"ada"}
    assert any("mode" in (entry.changes or {}) for entry in entries.filter(action=LogEntry.Action.UPDATE))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "/type"),
        ({"$ref": "http://169.254.169.254/"}, "Nothing is fetched"),
        ({"const": "\x00"}, ""),
    ],
)
def test_what_is_no_schema_is_refused_beside_the_field(api: APIClient, schema: Any, says: str) -> None:
    answer = api.post(f"{AT}/versions", {"schema": schema})
    assert (answer.status_code, answer.json()["failure"]) == (400, "invalid")
    assert says in str(answer.json()["errors"]["schema"])


def test_an_odd_type_and_a_missing_one_are_told_apart(api: APIClient) -> None:
    assert api.post("/api/v1/events/schemas/odd/versions", {"schema": V1}).status_code == 422
    assert api.get(AT).status_code == api.get(f"{AT}/versions/1").status_code == 404
    assert api.patch(AT, {"mode": "none"}).status_code == 404


def test_the_worked_example_of_the_page_does_what_the_page_says(api: APIClient) -> None:
    page = (ROOT / "docs/events-schemas.md").read_text()
    first, breaking = (json.loads(text) for text in re.findall(r"-d '(\{.*?\})'", page, re.DOTALL))
    SchemaReader.objects.create(event_type=TYPE, consumer="mail", needs={"required": ["total"]})
    assert api.post(f"{AT}/versions", first).status_code == 201
    with pytest.raises(Violation) as refused:
        publish(TYPE, {"id": "o-1", "total": "12"})
    breaks = api.post(f"{AT}/versions", breaking)
    assert breaks.status_code == 409
    said = " ".join(page.split())
    assert f"422: {refused.value}" in said
    assert f"409: {breaks.json()['detail']}" in said


# -- the catalogue ------------------------------------------------------------------------------------------------


def test_the_catalogue_is_an_asyncapi_document_of_what_is_registered(api: APIClient) -> None:
    call_command("schemas")
    found = api.get("/api/v1/events/asyncapi").json()
    assert (found["asyncapi"], sorted(found)[0]) == ("3.0.0", "asyncapi")
    assert {"title", "version"} <= found["info"].keys()
    recorded = found["channels"]["business.transaction.recorded"]
    assert recorded["address"] == "business.transaction.recorded"
    operations = {name: one["action"] for name, one in found["operations"].items() if "transaction" in name}
    assert operations == {
        "covenant.send.business.transaction.recorded": "send",
        "mint.receive.business.transaction.recorded": "receive",
    }
    message = found["components"]["messages"]["business.transaction.recorded.1"]
    assert message["payload"]["schema"]["properties"]["hash"]["pattern"] and message["examples"][0]["payload"]["height"]


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if "$ref" in node else []
        return here + [one for value in node.values() for one in references(value)]
    return [one for value in node for one in references(value)] if isinstance(node, list) else []


def test_every_reference_of_the_catalogue_leads_somewhere() -> None:
    """What the schema of AsyncAPI itself does not ask. That it does ask: names, and the members that must be there."""
    nested = {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": TEXT}, "examples": [{"a": "b"}]}
    found = document([Listed(TYPE, 3, nested, ("orders",), ("mail", "ledger"))], version="1", left_out=2)
    assert references(found)
    for reference in references(found):
        target: Any = found
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    assert all(re.fullmatch("[A-Za-z0-9._-]+", name) for name in found["components"]["messages"])
    assert all({"action", "channel"} <= one.keys() for one in found["operations"].values())
    assert "2 more types" in found["info"]["description"]


# -- admin --------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(client: Any, admin: User, settings: Any) -> Any:
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    client.force_login(admin)
    return client


def test_admin_registers_a_version_and_says_beside_the_field_why_not(browser: Any) -> None:
    add = "/admin/events/schemaversion/add/"
    assert browser.get(add).status_code == 200
    made = browser.post(add, {"type": TYPE, "document": '{"type": "object"}', "reason": "first"})
    assert made.status_code == 302
    version = SchemaVersion.objects.get()
    assert (version.author, version.document) == ("ada", {"type": "object"})
    assert browser.get(f"/admin/events/schemaversion/{version.pk}/change/").status_code == 200
    refused = browser.post(add, {"type": TYPE, "document": '{"type": "array"}', "reason": ""})
    assert refused.status_code == 200 and "full transitive compatible" in refused.content.decode()
    assert browser.post(add, {"type": TYPE, "document": '{"type": "array"}', "force": "on"}).status_code == 302
    assert SchemaVersion.objects.get(version=2).forced


def test_admin_sets_the_mode_and_nothing_else(browser: Any) -> None:
    registry.register(TYPE, V1, author="ada")
    row = EventType.objects.get()
    at = f"/admin/events/eventtype/{row.pk}/change/"
    assert browser.get(at).status_code == 200
    assert browser.post(at, {"mode": "backward", "name": "business.other.thing"}).status_code == 302
    row.refresh_from_db()
    assert (row.mode, row.name) == ("backward", TYPE)
    assert browser.post(f"/admin/events/eventtype/{row.pk}/delete/", {"post": "yes"}).status_code == 403
