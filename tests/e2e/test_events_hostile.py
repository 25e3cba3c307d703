"""Whatever an event, an endpoint or an address says is text on every page of the bus, and none of it runs."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Watch
from tests.fleet import Fleet
from tests.waiting import until

pytestmark = pytest.mark.browser

MARKUP = "\"><img src=x onerror=window.ran=1><script>window.ran=2</script>'</textarea><svg onload=window.ran=3>"
LINK = "javascript:window.ran=4"
TYPE = "hostile.order.placed"
HOOK = "e2e-hostile"


class Refuses(BaseHTTPRequestHandler):
    """An endpoint whose refusals are markup."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = MARKUP.encode()
        self.send_response(422)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


class Operator:
    """Whoever publishes and acts by REST."""

    def __init__(self, fleet: Fleet) -> None:
        self.base = f"{fleet.pages}/api/v1/events"
        self.fields = {"Authorization": f"Bearer {fleet.credentials['api_token']}"}

    def ask(self, method: str, path: str, **body: Any) -> Any:
        answer = requests.request(method, self.base + path, headers=self.fields, json=body or None, timeout=20)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def publish(self, **change: Any) -> str:
        event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "client/admin", "type": TYPE, "data": {}}
        fields = self.fields | {"Content-Type": "application/cloudevents+json"}
        body = json.dumps(event | change)
        answer = requests.post(self.base, data=body, headers=fields, timeout=20)
        assert answer.ok, answer.text
        return str(answer.json()["events"][0]["id"])


@pytest.fixture(scope="module")
def operator(fleet: Fleet) -> Iterator[Operator]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = Operator(fleet)
    url = f'http://127.0.0.1:{server.server_port}/?q="><script>window.ran=5</script>'
    found.ask("POST", "/subscriptions", name=HOOK, url=url, patterns=["hostile.#"], handshake=False, max_attempts=1)
    yield found
    requests.delete(f"{found.base}/subscriptions/{HOOK}", headers=found.fields, timeout=20)
    server.shutdown()
    server.server_close()


def opened(page: Page, fleet: Fleet, path: str) -> list[str]:
    """Go there; the addresses that the page leads to."""
    page.goto(fleet.pages + path)
    assert page.evaluate("window.ran") is None, path
    links: list[str] = page.evaluate("[...document.querySelectorAll('a[href]')].map((one) => one.getAttribute('href'))")
    assert not [link for link in links if link.strip().lower().startswith(("javascript:", "data:"))], path
    names = page.evaluate("[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())")
    assert not [name for name in names if name.startswith("on")], path
    return links


def test_nothing_that_an_event_or_an_endpoint_says_runs_on_a_page(
    fleet: Fleet, page: Page, watch: Watch, operator: Operator
) -> None:
    text: dict[str, Any] = {"subject": MARKUP, "partitionkey": MARKUP, "correlationid": MARKUP, "causationid": MARKUP}
    data = {MARKUP: MARKUP, "</script><script>window.ran=6</script>": [LINK, "<!--", "]]>"]}
    text |= {"source": f"client/admin/{MARKUP}", "note": MARKUP}
    operator.publish(id=uuid.uuid4().hex + MARKUP, data=data, **text)
    operator.publish(id=LINK + uuid.uuid4().hex, subject=LINK, data={"a": LINK})
    odd = ["..", ".", "../admin", "//evil.example/x", "?id=1", "%2e%2e", "\\\\evil", "rows", "a\u202eb"]
    for number, one in enumerate(odd):
        operator.publish(id=one, source=f"client/admin/{uuid.uuid4().hex}", data={"n": number})
    schema = {"type": "object", "title": MARKUP, "properties": {MARKUP: {"description": MARKUP, "default": MARKUP}}}
    operator.ask("POST", f"/schemas/{TYPE}/versions", schema=schema, reason=MARKUP)
    letters = until(lambda: operator.ask("GET", f"/dead-letters?subscription={HOOK}&state=failed")["results"], 20)
    for letter in letters[:3]:
        operator.ask("POST", f"/dead-letters/{letter['id']}/note", note=MARKUP)

    typed = quote(MARKUP)
    paths = [f"/events/?q={typed}", f"/events/dead-letters/?q={typed}", f"/events/flow/?under={typed}"]
    paths += [f"/events/catalogue/{TYPE}/", "/events/catalogue/", "/events/flow/", f"/events/subscriptions/{HOOK}/"]
    paths += [
        f"/events/dead-letters/{letters[0]['id']}/",
        f"/events/dead-letters/?subscription={HOOK}",
        "/events/tester/",
    ]
    for path in paths:
        opened(page, fleet, path)
    links = [link for link in opened(page, fleet, "/events/?type=hostile.%23") if link.startswith("/events/event/")]
    assert len(links) >= len(odd) + 1, "each has a page of its own, whatever it is called"
    for link in links:
        page.goto(fleet.pages + link)
        expect(page.get_by_role("heading", level=1)).to_have_text(TYPE)
        assert page.evaluate("window.ran") is None, link
    expect(page.locator("main")).to_be_visible()

    page.goto(f"{fleet.pages}/events/?type=hostile.%23")
    expect(page.locator("#live-word")).to_have_text("Live")
    operator.publish(source=f"client/admin/{MARKUP}", subject=MARKUP, data={MARKUP: MARKUP})
    expect(page.locator("#events tbody tr.new")).not_to_have_count(0, timeout=10_000)
    assert page.evaluate("window.ran") is None and page.locator("#events img").count() == 0
    assert not watch.complaints, watch.complaints
    assert len(watch.hosts) == 1, watch.hosts
