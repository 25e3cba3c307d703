"""Writes under an Idempotency-Key: one act, one answer, whoever sends it again and when."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from apps.gateway.models import ApiKey
from apps.lib.models import IdempotentWrite
from apps.lib.writes import KEPT
from apps.registry.models import Service
from tests.contract.rest import admin, no_redis, operator, refused, viewer, world

__all__ = ["admin", "no_redis", "operator", "viewer", "world"]


def test_the_same_idempotency_key_gives_the_same_answer_and_acts_once(admin: APIClient) -> None:
    body = {"consumer": "demo", "name": "job"}
    first = admin.post("/api/v1/keys", body, format="json", HTTP_IDEMPOTENCY_KEY="one")
    again = admin.post("/api/v1/keys", body, format="json", HTTP_IDEMPOTENCY_KEY="one")
    assert (first.status_code, again.status_code) == (201, 201) and first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true" and ApiKey.objects.count() == 1
    other = admin.post("/api/v1/keys", body, format="json", HTTP_IDEMPOTENCY_KEY="two")
    assert other.json()["id"] != first.json()["id"]


def test_what_is_kept_for_replay_does_not_hold_the_key_in_the_clear(admin: APIClient) -> None:
    made = admin.post("/api/v1/keys", {"consumer": "demo"}, format="json", HTTP_IDEMPOTENCY_KEY="one").json()
    row = IdempotentWrite.objects.values().get()
    assert made["key"] not in str(row) and made["prefix"] not in row["answer"]


def test_an_idempotency_key_is_bound_to_body_user_and_address(admin: APIClient) -> None:
    admin.post("/api/v1/services", {"name": "a"}, format="json", HTTP_IDEMPOTENCY_KEY="one")
    other_body = admin.post("/api/v1/services", {"name": "b"}, format="json", HTTP_IDEMPOTENCY_KEY="one")
    refused(other_body, 422, "idempotency_key_reused")
    assert not Service.objects.filter(name="b").exists()
    other_place = admin.post("/api/v1/consumers", {"name": "a"}, format="json", HTTP_IDEMPOTENCY_KEY="one")
    assert other_place.status_code == 201


def test_a_refused_write_may_be_tried_again_under_the_same_key(admin: APIClient) -> None:
    bad = admin.post("/api/v1/services", {"name": "Bad"}, format="json", HTTP_IDEMPOTENCY_KEY="one")
    refused(bad, 400, "invalid")
    good = admin.post("/api/v1/services", {"name": "good"}, format="json", HTTP_IDEMPOTENCY_KEY="one")
    assert good.status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_that_is_not_one_is_refused(key: str, admin: APIClient) -> None:
    response = admin.post("/api/v1/services", {"name": "a"}, format="json", HTTP_IDEMPOTENCY_KEY=key)
    refused(response, 400, "invalid")


def test_answers_are_forgotten_after_a_day(admin: APIClient) -> None:
    admin.post("/api/v1/services", {"name": "a"}, format="json", HTTP_IDEMPOTENCY_KEY="one")
    IdempotentWrite.objects.update(created_at=timezone.now() - KEPT - timedelta(seconds=1))
    admin.post("/api/v1/services", {"name": "b"}, format="json", HTTP_IDEMPOTENCY_KEY="two")
    assert IdempotentWrite.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_writes_at_once_under_one_idempotency_key_one_acts(admin: APIClient) -> None:
    started, answers = threading.Barrier(4), []

    def write() -> None:
        client = APIClient(raise_request_exception=False)
        client.credentials(**admin._credentials)
        started.wait(10)
        try:
            body = {"consumer": "demo", "name": "job"}
            answers.append(client.post("/api/v1/keys", body, format="json", HTTP_IDEMPOTENCY_KEY="one"))
        finally:
            connection.close()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["key"] for answer in answers}) == 1 and ApiKey.objects.count() == 1
