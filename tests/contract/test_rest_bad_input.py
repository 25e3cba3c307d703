"""What no client of ours would send: each is a problem document, and no server error."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.contract.rest import admin, no_redis, operator, refused, viewer, world

__all__ = ["admin", "no_redis", "operator", "viewer", "world"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"a":' * 5000, b"[" * 200_000, b"nul", b'{"name": NaN}', b""])
def test_a_body_that_is_not_json_is_refused(body: bytes, admin: APIClient) -> None:
    response = admin.generic("POST", "/api/v1/services", body, content_type="application/json")
    refused(response, 400, "invalid")


@pytest.mark.parametrize("body", ["[]", '"text"', "5", "null", "true"])
def test_json_that_is_not_an_object_is_refused(body: str, admin: APIClient) -> None:
    response = admin.generic("POST", "/api/v1/services", body, content_type="application/json")
    refused(response, 400, "invalid")


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "x"])
def test_another_content_type_is_refused(kind: str, admin: APIClient) -> None:
    refused(admin.generic("POST", "/api/v1/services", "a=b", content_type=kind), 415, "unsupported_media_type")


def test_a_charset_that_json_does_not_know_is_refused(admin: APIClient) -> None:
    for charset in ("klingon", "zlib", "utf-16"):
        kind = f"application/json; charset={charset}"
        response = admin.generic("POST", "/api/v1/services", b'{"name":"-"}', content_type=kind)
        refused(response, 415, "unsupported_charset")


def test_half_a_surrogate_pair_is_refused(admin: APIClient) -> None:
    body = rb'{"name":"x","title":"\ud800"}'
    response = admin.generic("POST", "/api/v1/services", body, content_type="application/json")
    assert list(refused(response, 400, "invalid")["errors"]) == ["title"]


def test_a_body_over_the_limit_is_refused_by_its_length_and_by_its_bytes(admin: APIClient, settings: Any) -> None:
    big = b'{"name":"' + b"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE + b'"}'
    response = admin.generic("POST", "/api/v1/services", big, content_type="application/json")
    refused(response, 413, "body_too_large")
    honest = admin.generic("POST", "/api/v1/services", big, content_type="application/json", CONTENT_LENGTH="99")
    assert honest.status_code in {400, 413}


@pytest.mark.parametrize(
    "path",
    ["nowhere", "services/nowhere", "services/Ledger", "services/%00", "instances/x", f"instances/{10**30}", "keys/-1"],
)
def test_an_unknown_address_is_a_problem_document(path: str, admin: APIClient) -> None:
    refused(admin.get(f"/api/v1/{path}"), 404, "not_found")
    refused(admin.get(f"/api/v1/{path}/"), 404, "not_found")


def test_a_slash_at_the_end_makes_no_difference(admin: APIClient) -> None:
    assert admin.get("/api/v1/services/").json() == admin.get("/api/v1/services").json()
    assert admin.post("/api/v1/services/", {"name": "x"}, format="json").status_code == 201


def test_a_wrong_method_names_the_right_ones(admin: APIClient) -> None:
    response = admin.delete("/api/v1/services")
    refused(response, 405, "method_not_allowed")
    assert "GET" in response.headers["Allow"] and "POST" in response.headers["Allow"]


def test_an_unknown_host_and_a_wrong_accept_are_refused(admin: APIClient) -> None:
    refused(admin.get("/api/v1/services", HTTP_HOST="evil.example"), 400, "unknown_host")
    refused(admin.get("/api/v1/services", HTTP_ACCEPT="text/html"), 406, "not_acceptable")


@pytest.mark.parametrize("query", ["owner=%00", "fleet=maybe", "page_size=x", "page_size=-1", "nonsense=1"])
def test_a_strange_query_is_no_server_error(query: str, admin: APIClient) -> None:
    assert admin.get(f"/api/v1/services?{query}").status_code in {200, 400}


def test_a_programming_error_is_a_problem_document_without_a_trace(admin: APIClient, monkeypatch: Any) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("inner secret")

    monkeypatch.setattr("apps.registry.api.ServiceViewSet.list", broken)
    document = refused(admin.get("/api/v1/services"), 500, "internal_error")
    assert "secret" not in str(document)
