"""The first start, the second, and what is put right between them."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.utils import timezone

from apps.gateway import actions
from apps.gateway.models import ApiKey, ConfigRevision, JwtIssuer, Route
from apps.health.models import HealthCheck
from apps.people.actions import digest_of, end, is_live
from apps.people.models import ApiToken
from apps.registry.models import Instance, Service
from missioncontrol.fleet import Home, Ports, seed
from tests.waiting import patient

PORTS = Ports(gateway=8080, services={"aegis": 7101, "covenant": 7102, "nexus": 7103, "mint": 7104})
MOVED = Ports(gateway=9080, services={"aegis": 9101, "covenant": 9102, "nexus": 9103, "mint": 9104})


@pytest.fixture(autouse=True)
def nobody_at_redis(no_redis: None, db: Any) -> None:
    """The seed works before Redis does."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def run(home: Home, ports: Ports = PORTS, **options: Any) -> dict[str, Any]:
    seed(home, ports, lambda line: None, **options)
    found: dict[str, Any] = json.loads(home.credentials.read_text())
    return found


def test_the_first_start_makes_a_system_that_can_be_used(home: Home) -> None:
    known = run(home)
    admin = authenticate(username=known["admin"]["username"], password=known["admin"]["password"])
    assert isinstance(admin, User) and admin.is_superuser
    assert ApiToken.objects.get(digest=digest_of(known["api_token"])).user == admin
    assert ApiKey.objects.get(hash=actions.hash_key(known["demo_api_key"])).consumer.name == "demo"
    assert ApiKey.objects.get(hash=actions.hash_key(home.nexus_key.read_text().strip())).consumer.name == "nexus"
    assert json.loads(home.aegis_clients.read_text()) == {"demo": known["demo_client"]["secret"]}
    document = ConfigRevision.objects.get().content
    assert [service["name"] for service in document["services"]] == ["aegis", "covenant", "mint", "nexus"]
    routes = {route["name"]: route for route in document["routes"]}
    assert {name for name, route in routes.items() if not route["auth"] or route["forward_credentials"]} == {"aegis"}
    assert {name for name, route in routes.items() if "demo" in route["allow"]} == {"covenant", "mint", "nexus"}
    appending = [name for name, route in routes.items() if route["path"] == "/covenant" and "POST" in route["methods"]]
    assert appending == ["covenant-append"] and routes["covenant-append"]["allow"] == ["nexus"]
    assert not any("*" in route["allow"] for route in routes.values())
    assert document["issuers"][0]["issuer"] == "http://localhost:8080/aegis"
    assert document["services"][0]["breaker"]["minimum_calls"] == 5 and document["services"][0]["fleet"] is True
    assert HealthCheck.objects.count() == 4 and HealthCheck.objects.first().interval_s == 2.0
    assert {group.name for group in Group.objects.all()} == {"viewer", "operator", "admin"}


def test_secrets_are_for_the_owner_alone(home: Home) -> None:
    run(home)
    for path in (home.credentials, home.nexus_key, home.aegis_clients):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_start_changes_nothing(home: Home) -> None:
    first = run(home)
    before = {path: path.stat().st_mtime_ns for path in (home.credentials, home.nexus_key, home.aegis_clients)}
    assert run(home) == first
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert ConfigRevision.objects.count() == 1 and ApiKey.objects.count() == 2


def test_addresses_follow_the_ports(home: Home) -> None:
    run(home)
    run(home, MOVED)
    assert Instance.objects.get(name="mint-1").url == "http://127.0.0.1:9104"
    issuer = JwtIssuer.objects.get()
    assert issuer.issuer == "http://localhost:9080/aegis"
    assert issuer.jwks_url == "http://127.0.0.1:9101/.well-known/jwks.json"
    assert ConfigRevision.objects.count() == 2


def test_what_an_admin_changed_or_deleted_stays_so(home: Home) -> None:
    run(home)
    Instance.objects.filter(name="nexus-1").update(url="http://10.0.0.9:80")
    Route.objects.filter(name="mint").delete()
    Service.objects.filter(name="mint").delete()
    Route.objects.filter(name="nexus").update(timeout=3)
    run(home, MOVED)
    assert not Service.objects.filter(name="mint").exists()
    assert Instance.objects.get(name="nexus-1").url == "http://10.0.0.9:80"
    assert Route.objects.get(name="nexus").timeout == 3


def test_lost_credentials_are_made_anew_and_the_old_key_ends(home: Home) -> None:
    first = run(home)
    home.credentials.unlink()
    again = run(home)
    assert again["demo_api_key"] != first["demo_api_key"]
    assert ApiKey.objects.get(hash=actions.hash_key(first["demo_api_key"])).state == "revoked"
    assert authenticate(username="admin", password=again["admin"]["password"]) is not None
    assert authenticate(username="admin", password=first["admin"]["password"]) is None


@pytest.mark.parametrize("how", ["expired", "ended by hand", "ended with the password", "another user's"])
def test_a_token_that_opens_nothing_any_more_is_replaced_and_stays_dead(home: Home, how: str) -> None:
    old = run(home)["api_token"]
    admin = User.objects.get(username="admin")
    if how == "expired":
        ApiToken.objects.update(expires_at=timezone.now())
    elif how == "ended by hand":
        end(ApiToken.objects.all(), "test")
    elif how == "ended with the password":
        admin.set_password("another long password")
        admin.save()
    else:
        ApiToken.objects.update(user=User.objects.create_user("other"))
    new = run(home)["api_token"]
    assert new != old and is_live(new, admin) and not is_live(old, admin)
    assert run(home)["api_token"] == new


def test_a_new_database_takes_over_the_credentials_that_are_there(home: Home) -> None:
    known = run(home)
    for model in (ApiKey, User, Route, Instance, Service):
        model.objects.all().delete()
    ConfigRevision.objects.all()._raw_delete("default")
    again = run(home)
    assert again | {"api_token": ""} == known | {"api_token": ""}
    admin = authenticate(username="admin", password=known["admin"]["password"])
    assert admin is not None and is_live(again["api_token"], admin)
    assert ApiKey.objects.filter(hash=actions.hash_key(known["demo_api_key"])).exists()


def test_without_the_fleet_there_are_people_and_roles_alone(home: Home) -> None:
    known = run(home, fleet=False)
    assert set(known) == {"admin", "api_token"} and not Service.objects.exists()
    assert not home.nexus_key.exists()


def test_the_command_is_quick(settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.HOME = tmp_path
    started = time.monotonic()
    call_command("seed")
    assert time.monotonic() - started < patient(5)
    assert "published as revision 1" in capsys.readouterr().out
    call_command("seed")
    assert "unchanged at revision 1" in capsys.readouterr().out
