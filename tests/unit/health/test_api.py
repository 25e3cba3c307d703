"""Health by REST: checks are edited by admins, verdicts and histories are read by anyone with a role."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from rest_framework.test import APIClient

from apps.health import tasks
from apps.health.models import BreakerTransition, HealthCheck, HealthTransition, InstanceHealth
from apps.lib.roles import ADMIN, VIEWER
from apps.registry.models import Instance, Service

pytestmark = pytest.mark.django_db


def client(role: str | None) -> APIClient:
    api = APIClient()
    if role is not None:
        user = User.objects.create_user(role or "nobody")
        if role:
            user.groups.add(Group.objects.get_or_create(name=role)[0])
        api.force_authenticate(user)
    return api


@pytest.fixture
def admin() -> APIClient:
    return client(ADMIN)


@pytest.fixture
def covenant() -> Service:
    service = Service.objects.create(name="covenant")
    HealthCheck.objects.create(service=service, interval_s=2, timeout_s=1)
    instance = Instance.objects.create(service=service, name="covenant-1", url="http://127.0.0.1:7102")
    now = datetime.now(UTC)
    InstanceHealth.objects.create(
        instance=instance, state="healthy", since=now - timedelta(seconds=600), next_at=now, checked_at=now
    )
    for ago, before, after in (
        (1000, "unknown", "healthy"),
        (700, "healthy", "unhealthy"),
        (600, "unhealthy", "healthy"),
    ):
        HealthTransition.objects.create(
            service="covenant",
            key="covenant/covenant-1",
            from_state=before,
            to_state=after,
            at=now - timedelta(seconds=ago),
            reason="r",
            version=1,
        )
    return service


@pytest.mark.parametrize(
    "path",
    ["health-checks", "health", "health/transitions", "breaker-transitions", "health/covenant/summary", "events"],
)
def test_reading_takes_a_role(path: str, covenant: Service) -> None:
    assert client(None).get(f"/api/v1/{path}").status_code == 401
    assert client("").get(f"/api/v1/{path}").status_code == 403
    assert client(VIEWER).get(f"/api/v1/{path}").status_code == 200


def test_viewers_change_nothing(covenant: Service) -> None:
    assert client(VIEWER).patch("/api/v1/health-checks/covenant", {"rise": 3}).status_code == 403


def test_an_admin_changes_a_check(admin: APIClient, covenant: Service) -> None:
    answer = admin.patch("/api/v1/health-checks/covenant", {"interval_s": 10, "timeout_s": 2.5, "path": "/alive?x=1"})
    assert answer.status_code == 200, answer.content
    check = HealthCheck.objects.get()
    assert (check.interval_s, check.timeout_s, check.path) == (10.0, 2.5, "/alive?x=1")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"timeout_s": 3}, "timeout_s"),
        ({"interval_s": 0.1}, "interval_s"),
        ({"interval_s": True}, "interval_s"),
        ({"rise": 0}, "rise"),
        ({"fall": 1.5}, "fall"),
        ({"path": "health"}, "path"),
        ({"path": "/he alth"}, "path"),
        ({"path": "//\r\nX: y"}, "path"),
        ({"status_low": 400, "status_high": 300}, "status_high"),
        ({"status_low": 99}, "status_low"),
        ({"enabled": "yes"}, "enabled"),
        ({"service": "nobody"}, "service"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_change_is_refused_beside_its_field(
    admin: APIClient, covenant: Service, change: dict[str, Any], field: str
) -> None:
    before = HealthCheck.objects.values().get()
    answer = admin.patch("/api/v1/health-checks/covenant", change)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert answer["Content-Type"] == "application/problem+json"
    assert HealthCheck.objects.values().get() == before


def test_a_service_has_one_check(admin: APIClient, covenant: Service) -> None:
    answer = admin.post("/api/v1/health-checks", {"service": "covenant"})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["service"])


def test_verdicts(admin: APIClient, covenant: Service) -> None:
    (status,) = admin.get("/api/v1/health?state=healthy&service=covenant").json()
    assert (status["key"], status["state"], status["watched"]) == ("covenant/covenant-1", "healthy", True)
    assert admin.get("/api/v1/health?state=unhealthy").json() == []
    assert admin.get("/api/v1/health?state=odd").status_code == 400


def test_transitions_are_filtered_and_paged(admin: APIClient, covenant: Service) -> None:
    first = admin.get("/api/v1/health/transitions?page_size=2").json()
    assert [row["to_state"] for row in first["results"]] == ["healthy", "unhealthy"]
    second = admin.get(first["next"]).json()
    assert [row["from_state"] for row in second["results"]] == ["unknown"]
    since = (datetime.now(UTC) - timedelta(seconds=650)).isoformat().replace("+", "%2B")
    assert len(admin.get(f"/api/v1/health/transitions?since={since}").json()["results"]) == 1
    assert len(admin.get("/api/v1/health/transitions?to_state=unhealthy").json()["results"]) == 1
    assert admin.get("/api/v1/health/transitions?since=yesterday").status_code == 400


def test_the_summary_adds_up(admin: APIClient, covenant: Service) -> None:
    body = admin.get("/api/v1/health/covenant/summary?window=800").json()
    (instance,) = body["instances"]
    assert instance["seconds"] == {"healthy": pytest.approx(700, abs=2), "unhealthy": pytest.approx(100, abs=2)}
    assert instance["healthy_share"] == pytest.approx(0.875, abs=0.01)
    assert sum(instance["seconds"].values()) == pytest.approx(800, abs=0.1)
    assert admin.get("/api/v1/health/nobody/summary").status_code == 404
    assert admin.get("/api/v1/health/covenant/summary?window=0").status_code == 400
    assert admin.get("/api/v1/health/covenant/summary?window=x").status_code == 400


def test_breaker_transitions(admin: APIClient) -> None:
    for number, worker in enumerate(["w1", ""]):
        BreakerTransition.objects.create(
            stream_id=str(number),
            service="covenant",
            worker=worker,
            from_state="closed",
            to_state="open",
            at=datetime.now(UTC),
            seconds=5,
        )
    both = admin.get("/api/v1/breaker-transitions?service=covenant").json()["results"]
    whole = admin.get("/api/v1/breaker-transitions?whole=true").json()["results"]
    assert (len(both), [row["worker"] for row in whole]) == (2, [""])


def test_retention_forgets_old_history(covenant: Service) -> None:
    HealthTransition.objects.filter(to_state="unhealthy").update(at=datetime.now(UTC) - timedelta(days=400))
    tasks.prune()
    assert HealthTransition.objects.count() == 2


@pytest.fixture
def plain_static(settings: Any) -> None:
    """Pages without a manifest of hashed file names, which only ``collectstatic`` makes."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


@pytest.mark.parametrize(
    "page",
    [
        "health/healthcheck/",
        "health/healthcheck/add/",
        "health/instancehealth/",
        "health/healthtransition/",
        "health/breakertransition/",
        "events/event/",
        "events/outboxmessage/",
    ],
)
def test_admin_pages_open(admin_client: Any, plain_static: None, covenant: Service, page: str) -> None:
    assert admin_client.get(f"/admin/{page}").status_code == 200


def test_admin_says_beside_the_field_what_is_wrong(admin_client: Any, plain_static: None, covenant: Service) -> None:
    pk = HealthCheck.objects.get().pk
    form = {"path": "/health", "interval_s": 2, "timeout_s": 9, "rise": 2, "fall": 2, "status_low": 200}
    answer = admin_client.post(f"/admin/health/healthcheck/{pk}/change/", form | {"status_high": 299, "enabled": "on"})
    assert answer.status_code == 200
    assert "longer than the interval" in answer.content.decode().replace("&#x27;", "'")
    assert HealthCheck.objects.get().timeout_s == 1
