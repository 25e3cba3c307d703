"""A change saved in Django admin reaches every gateway worker within 2 seconds, and no request under way notices."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from typing import Any

import pytest
import requests

from tests.fleet import Fleet
from tests.waiting import patient, until

CALLERS = 3
SAVES = 5


class Load:
    """Callers that ask the gateway one thing after the other over kept connections, and remember every answer."""

    def __init__(self, fleet: Fleet, path: str) -> None:
        self.port, self.path = fleet.ports["MC_GATEWAY_PORT"], path
        self.headers = {"X-API-Key": fleet.credentials["demo_api_key"]}
        self.answers: Counter[str] = Counter()
        self.lock, self.ending = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.call) for _ in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        until(lambda: self.total() > 50, 10, what="load under way")
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(10)

    def total(self) -> int:
        with self.lock:
            return sum(self.answers.values())

    def call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with closing(connection):
            self.keep_calling(connection)

    def keep_calling(self, connection: http.client.HTTPConnection) -> None:
        # Paced to stay under the consumer's 200 a second, and to leave the machine to what is tested.
        while not self.ending.wait(0.02):
            try:
                connection.request("GET", self.path, headers=self.headers)
                response = connection.getresponse()
                body = response.read()
                answer = str(response.status) if response.status == 200 else f"{response.status} {body[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                answer = repr(error)
                connection.close()
            with self.lock:
                self.answers[answer] += 1


class Form(HTMLParser):
    """What a browser would send of the page's form with id ``identity``."""

    def __init__(self, identity: str) -> None:
        super().__init__()
        self.identity, self.inside = identity, False
        self.data: dict[str, list[str]] = {}
        self.select = self.area = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.inside = given.get("id") == self.identity
        if not self.inside:
            return
        name = given.get("name") or ""
        if tag == "input" and name and given.get("type") not in {"submit", "button"}:
            if given.get("type") not in {"checkbox", "radio"} or "checked" in given:
                self.data.setdefault(name, []).append(given.get("value") or "on" * (given.get("type") == "checkbox"))
        elif tag == "select":
            self.select = name
        elif tag == "option" and self.select and "selected" in given:
            self.data.setdefault(self.select, []).append(given.get("value") or "")
        elif tag == "textarea":
            self.area = name
            self.data[name] = [""]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.inside = False
        elif tag == "select":
            self.select = ""
        elif tag == "textarea":
            self.area = ""

    def handle_data(self, data: str) -> None:
        if self.area:
            self.data[self.area][0] += data


class Admin:
    """An admin at the browser: log in, open a form, change a field, save."""

    def __init__(self, fleet: Fleet, session: requests.Session) -> None:
        self.base, self.session = fleet.pages, session
        known = fleet.credentials["admin"]
        token = self._token(self.session.get(f"{self.base}/admin/login/", timeout=10).text)
        answer = self.session.post(
            f"{self.base}/admin/login/?next=/admin/",
            data={"username": known["username"], "password": known["password"], "csrfmiddlewaretoken": token},
            timeout=10,
            allow_redirects=False,
        )
        assert answer.status_code == 302, answer.text[:500]

    @staticmethod
    def _token(page: str) -> str:
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert found is not None
        return found[1]

    def save(self, place: str, form: str, /, **changes: str) -> requests.Response:
        page = self.session.get(f"{self.base}{place}", timeout=10)
        assert page.status_code == 200, page.text[:500]
        reader = Form(form)
        reader.feed(page.text)
        data = reader.data | {name: [value] for name, value in changes.items()}
        return self.session.post(f"{self.base}{place}", data=data, timeout=10, allow_redirects=False)


@pytest.fixture
def api(fleet: Fleet) -> Iterator[Any]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {fleet.credentials['api_token']}"

        def call(method: str, path: str, **options: Any) -> requests.Response:
            return session.request(method, f"{fleet.pages}/api/v1/{path}", timeout=10, **options)

        yield call


@pytest.fixture
def admin(fleet: Fleet) -> Iterator[Admin]:
    with requests.Session() as session:
        yield Admin(fleet, session)


def serving(api: Any, revision: int) -> int:
    """How many workers there are, once every one of them serves ``revision``; else 0."""
    workers = api("GET", "workers").json()
    return len(workers) if workers and all(worker["revision"] >= revision for worker in workers) else 0


def test_a_saved_change_reaches_every_worker_in_two_seconds_and_no_request_fails(
    fleet: Fleet, api: Any, admin: Admin
) -> None:
    listed = admin.session.get(f"{fleet.pages}/admin/gateway/route/?q=mint", timeout=10).text
    found = re.search(r"/admin/gateway/route/(\d+)/change/", listed)
    assert found is not None
    place = f"/admin/gateway/route/{found[1]}/change/"
    before = api("GET", "routes/mint").json()["timeout"]
    waits = []
    try:
        with Load(fleet, "/mint/health") as load:
            for number in range(SAVES):
                answer = admin.save(place, "route_form", timeout=str(20 + number))
                saved = time.monotonic()
                assert answer.status_code == 302, answer.text
                revision = api("GET", "revisions?page_size=1").json()["results"][0]["number"]
                until(lambda revision=revision: serving(api, revision), 5, every=0.02, what="the new revision served")
                waits.append(time.monotonic() - saved)
            amid = load.total()
            until(lambda: load.total() > amid + 50, 10, what="load going on after the last change")
        assert api("GET", "routes/mint").json()["timeout"] == 20 + SAVES - 1
        assert serving(api, revision) >= 2
        assert max(waits) < 2, waits
        assert set(load.answers) == {"200"}, load.answers
        assert load.total() > 100
    finally:
        api("PATCH", "routes/mint", json={"timeout": before})


def test_a_route_added_in_admin_is_served_and_a_refused_one_changes_nothing(
    fleet: Fleet, api: Any, admin: Admin
) -> None:
    service = re.search(
        r"/admin/registry/service/(\d+)/change/",
        admin.session.get(f"{fleet.pages}/admin/registry/service/?q=mint", timeout=10).text,
    )
    assert service is not None
    fields = {"name": "mint-again", "path": "/mint-again", "service": service[1], "allow": "demo"}
    url = f"{fleet.gateway}/mint-again/health"
    headers = {"X-API-Key": fleet.credentials["demo_api_key"]}
    assert requests.get(url, headers=headers, timeout=5).status_code == 404
    try:
        assert admin.save("/admin/gateway/route/add/", "route_form", **fields).status_code == 302
        saved = time.monotonic()
        until(lambda: all(requests.get(url, headers=headers, timeout=5).status_code == 200 for _ in range(8)), 5)
        assert time.monotonic() - saved < patient(2)
        newest = api("GET", "revisions?page_size=1").json()["results"][0]
        refused = admin.save(
            "/admin/gateway/route/add/", "route_form", **fields | {"name": "mint-thrice", "timeout": "0"}
        )
        assert refused.status_code == 200 and "greater than or equal to 0.001" in refused.text
        rival = admin.save("/admin/gateway/route/add/", "route_form", **fields | {"name": "mint-thrice"})
        assert rival.status_code == 200 and "both match /mint-again" in rival.text
        assert api("GET", "revisions?page_size=1").json()["results"][0] == newest
        assert api("GET", "routes/mint-thrice").status_code == 404
    finally:
        api("DELETE", "routes/mint-again")
    until(lambda: requests.get(url, headers=headers, timeout=5).status_code == 404, 5)


def test_a_key_lives_and_dies_within_two_seconds_of_the_word(fleet: Fleet, api: Any) -> None:
    made = api("POST", "keys", json={"consumer": "demo", "name": "short-lived"}).json()
    url = f"{fleet.gateway}/mint/health"

    def answers(status: int) -> bool:
        headers = {"X-API-Key": made["key"]}
        return all(requests.get(url, headers=headers, timeout=5).status_code == status for _ in range(8))

    started = time.monotonic()
    until(lambda: answers(200), 5)
    assert time.monotonic() - started < patient(2)
    api("POST", f"keys/{made['id']}/revoke")
    started = time.monotonic()
    until(lambda: answers(401), 5)
    assert time.monotonic() - started < patient(2)
    document = requests.get(url, headers={"X-API-Key": made["key"]}, timeout=5).json()
    assert document["failure"] == "key_revoked"


def test_a_drained_instance_gets_no_requests_within_two_seconds(fleet: Fleet, api: Any) -> None:
    (instance,) = [row for row in api("GET", "instances").json()["results"] if row["key"] == "mint/mint-1"]
    url, headers = f"{fleet.gateway}/mint/health", {"X-API-Key": fleet.credentials["demo_api_key"]}
    try:
        assert api("POST", f"instances/{instance['id']}/disable").status_code == 200
        started = time.monotonic()
        until(lambda: all(requests.get(url, headers=headers, timeout=5).status_code == 503 for _ in range(8)), 5)
        assert time.monotonic() - started < patient(2)
    finally:
        api("POST", f"instances/{instance['id']}/enable")
        api("POST", "breakers/mint/close", json={"reason": "test is over"})
    until(lambda: all(requests.get(url, headers=headers, timeout=5).status_code == 200 for _ in range(8)), 10)
    api("POST", "breakers/mint/release", json={"reason": "test is over"})
    until(lambda: requests.get(url, headers=headers, timeout=5).status_code == 200, 15)


def test_a_breaker_is_held_open_and_released_by_word(fleet: Fleet, api: Any) -> None:
    url, headers = f"{fleet.gateway}/mint/health", {"X-API-Key": fleet.credentials["demo_api_key"]}

    def answers(status: int) -> bool:
        return all(requests.get(url, headers=headers, timeout=5).status_code == status for _ in range(8))

    try:
        assert api("POST", "breakers/mint/open", json={"reason": "a test"}).status_code == 200
        started = time.monotonic()
        until(lambda: answers(503), 5)
        assert time.monotonic() - started < patient(2)
        document = requests.get(url, headers=headers, timeout=5).json()
        assert document["failure"] == "breaker_open"
        shown = until(lambda: (now := api("GET", "breakers/mint").json())["state"] == "open" and now, 5)
        assert shown["override"]["reason"] == "a test"
    finally:
        api("POST", "breakers/mint/release", json={"reason": "the test is over"})
    until(lambda: answers(200), 10)
