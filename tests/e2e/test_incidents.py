"""Nine incidents, made for real and watched in Chromium: the right verdict within 15 seconds, nothing wrongly green
while they last, and green again by itself once they are over; no reload."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from playwright.sync_api import Page, expect

from tests.e2e.orders import Instance
from tests.fleet import Fleet
from tests.waiting import free_ports, until

pytestmark = [pytest.mark.browser, pytest.mark.solo, pytest.mark.timeout(400)]

SECONDS = 15.0
"""In which an incident must be told."""
RECOVERS = 120.0
"""A minute of figures has to pass, and a busy machine needs its time."""


class Orders:
    """Two instances, registered by REST with two routes and a consumer that may make few requests."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.instances = [Instance(port) for port in free_ports(2)]
        self._rest = requests.Session()
        self._rest.headers["Authorization"] = f"Bearer {fleet.credentials['api_token']}"

    def post(self, noun: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._rest.post(f"{self.fleet.pages}/api/v1/{noun}", json=body, timeout=20)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def delete(self, path: str) -> None:
        answer = self._rest.delete(f"{self.fleet.pages}/api/v1/{path}", timeout=20)
        assert answer.status_code in {204, 404}, answer.text

    def register(self) -> None:
        self.forget()
        for instance in self.instances:
            instance.start()
        self.post("services", {"name": "orders"})
        for number, instance in enumerate(self.instances, 1):
            url = f"http://127.0.0.1:{instance.port}"
            self.post("instances", {"service": "orders", "name": f"orders-{number}", "url": url})
        self.post("routes", {"name": "orders", "service": "orders", "path": "/orders", "slow_ms": 250, "allow": ["*"]})
        self.post(
            "routes",
            {"name": "orders-new", "service": "orders", "path": "/orders/new", "strip_prefix": False, "allow": ["*"]},
        )
        self.post("rate-limits", {"name": "one-a-minute", "requests": 1, "period": 60})
        self.post("consumers", {"name": "hasty", "rate_limit": "one-a-minute"})
        self.hasty = self.post("keys", {"consumer": "hasty"})["key"]
        answer = self._rest.patch(f"{self.fleet.pages}/api/v1/health-checks/orders", json={"interval_s": 1}, timeout=20)
        assert answer.status_code in {200, 404}, answer.text  # The monitor makes the row when it first looks.

    def forget(self) -> None:
        for route in ("orders", "orders-new"):
            self.delete(f"routes/{route}")
        for path in ("consumers/hasty", "rate-limits/one-a-minute"):
            self.delete(path)
        found = self._rest.get(f"{self.fleet.pages}/api/v1/instances", timeout=20).json()
        for instance in found["results"]:
            if instance["service"] == "orders":
                self.delete(f"instances/{instance['id']}")
        self.delete("services/orders")

    def well(self) -> None:
        for instance in self.instances:
            instance.start()
            instance.be()

    @contextmanager
    def traffic(self, path: str = "", key: str = "", every: float = 0.05) -> Iterator[None]:
        """Requests one after another for as long as the block lasts."""
        over = Event()

        def call() -> None:
            with requests.Session() as session:
                session.headers["X-API-Key"] = key or self.fleet.credentials["demo_api_key"]
                while not over.wait(every):
                    session.get(f"{self.fleet.gateway}/orders{path}", timeout=30)

        caller = Thread(target=call)
        caller.start()
        try:
            yield
        finally:
            over.set()
            caller.join()


@pytest.fixture(scope="module")
def orders(fleet: Fleet) -> Iterator[Orders]:
    made = Orders(fleet)
    made.register()
    try:
        yield made
    finally:
        for instance in made.instances:
            instance.kill()
        made.forget()


@pytest.fixture
def overview(fleet: Fleet, page: Page, orders: Orders) -> Page:
    """The overview, green."""
    orders.well()
    page.goto(f"{fleet.pages}/")
    recovered(page)
    # The minute of figures holds nothing of the incident before.
    page.wait_for_function("() => !document.querySelector('[data-f=errors][data-bad]')", timeout=RECOVERS * 1000)
    page.evaluate(
        """() => {
          window.sameDocument = 'yes';
          const verdict = document.getElementById('verdict');
          const said = (name) => verdict.querySelector(`[data-f=${name}]`).textContent;
          window.look = () => ({ state: verdict.dataset.state, title: said('title'), detail: said('detail') });
        }"""
    )
    return page


def recovered(page: Page) -> None:
    """Green, and no service is not."""
    try:
        page.wait_for_function(
            """() => document.querySelector('#verdict').dataset.state === 'healthy'
                && !['failing', 'degraded', 'unknown'].some((s) => document.querySelector(`.tile[data-state=${s}]`))
                && document.querySelector('#lost').hidden""",
            timeout=RECOVERS * 1000,
        )
    except Exception as error:
        raise AssertionError(f"not green again within {RECOVERS} s: {page.locator('main').inner_text()}") from error


def told(page: Page, state: str, title: str, since: float) -> dict[str, str]:
    """What the verdict says once it is ``state`` with a title like ``title``, in time."""
    left = SECONDS - (time.monotonic() - since)
    try:
        page.wait_for_function(
            """([state, title]) => { const now = window.look();
                return state.split('|').includes(now.state) && new RegExp(title).test(now.title); }""",
            arg=[state, title],
            timeout=max(left, 0.1) * 1000,
        )
    except Exception as error:
        said = page.evaluate("window.look()")
        raise AssertionError(f"not {state} {title!r} within {SECONDS} s: {said}") from error
    found: dict[str, str] = page.evaluate("window.look()")
    print(f"{found['title']} · {found['detail']} after {time.monotonic() - since:.1f} s")
    return found


def stays(page: Page, *tiles: str, seconds: float = 4.0) -> None:
    """For a while neither the verdict nor these tiles are green."""
    green = page.evaluate(
        """([tiles, seconds]) => new Promise((resolve) => {
          const bad = [];
          const look = () => {
            if (window.look().state === 'healthy') bad.push('verdict');
            for (const name of tiles) {
              const tile = document.querySelector(`.tile[data-service="${name}"]`);
              if (tile && tile.dataset.state === 'healthy') bad.push(name);
            }
          };
          const timer = setInterval(look, 50);
          setTimeout(() => { clearInterval(timer); resolve(bad); }, seconds * 1000);
        })""",
        [list(tiles), seconds],
    )
    assert green == [], "green while the incident lasts"


def over(page: Page) -> None:
    recovered(page)
    assert page.evaluate("window.sameDocument") == "yes", "the page was reloaded"


# -- what happens to services -------------------------------------------------------------------


def test_a_dead_service_is_failing(overview: Page, orders: Orders) -> None:
    with orders.traffic():
        since = time.monotonic()
        for instance in orders.instances:
            instance.kill()
        told(overview, "failing", "Failing: .*orders", since)
        stays(overview, "orders")
        expect(overview.locator('.tile[data-service="orders"] [data-f=why]')).not_to_be_empty()
    orders.well()
    over(overview)


def test_a_slow_service_is_degraded_by_its_routes_own_threshold(overview: Page, orders: Orders) -> None:
    with orders.traffic():
        since = time.monotonic()
        for instance in orders.instances:
            instance.be(slow=0.6)
        found = told(overview, "degraded", "Degraded: .*orders", since)
        assert re.search(r"slow: p95 of /orders is \d{3} ms, past its 250 ms", found["detail"]), found
        stays(overview, "orders")
        for instance in orders.instances:
            instance.be()
        over(overview)


def test_one_of_two_dead_is_degraded_and_named(overview: Page, orders: Orders) -> None:
    since = time.monotonic()
    orders.instances[1].kill()
    found = told(overview, "degraded", "Degraded: orders", since)
    assert "1 of 2 instances down, orders-2" in found["detail"], found
    stays(overview, "orders")
    orders.well()
    over(overview)


def test_a_bad_deploy_on_one_route_is_seen_though_the_service_reports_nothing(overview: Page, orders: Orders) -> None:
    with orders.traffic(), orders.traffic("/new"):
        since = time.monotonic()
        for instance in orders.instances:
            instance.be(broken="/orders/new")
        # A small part of the minute at first, and more than a quarter of it later.
        found = told(overview, "failing|degraded", ": .*orders", since)
        assert "to /orders/new fail" in found["detail"], found
        stays(overview, "orders")
        expect(overview.locator("#affected")).to_contain_text("/orders/new")
        expect(overview.locator("#affected")).to_contain_text("demo")
        for instance in orders.instances:
            instance.be()
        over(overview)


def test_an_exhausted_key_is_named_with_its_policy(overview: Page, orders: Orders) -> None:
    since = time.monotonic()
    with orders.traffic(key=orders.hasty):
        found = told(overview, "degraded", "Degraded: orders", since)
        assert re.search(r"hasty limited by one-a-minute: \d+% of its requests to /orders get 429", found["detail"])
        stays(overview, "orders")
        expect(overview.locator("#affected")).to_contain_text("hasty")
        expect(overview.locator("#affected")).to_contain_text("limited by one-a-minute")
    over(overview)


# -- what happens to Mission Control itself -----------------------------------------------------

SERVICES = ("orders", "covenant", "mint")
PARTS: list[tuple[str, str, str, str, tuple[str, ...]]] = [
    ("relay", "stop", "degraded", "^Degraded: the relay is stopped", ()),
    ("relay", "hang", "unknown", "^Not known: the relay runs but has been silent", ()),
    ("clickhouse", "stop", "unknown", "^Not known: ClickHouse is stopped", (*SERVICES, "gateway")),
    ("clickhouse", "hang", "unknown", "^Not known: ClickHouse has not answered", (*SERVICES, "gateway")),
    ("collector", "stop", "unknown", "^Not known: the collector is stopped", (*SERVICES, "gateway")),
    ("redis", "stop", "unknown", "^Not known: Redis is stopped", (*SERVICES, "gateway")),
    ("redis", "hang", "unknown", "^Not known: Redis has not answered", (*SERVICES, "gateway")),
    ("worker", "stop", "unknown", "^Not known: the monitor is stopped", SERVICES),
    ("worker", "hang", "unknown", "^Not known: the monitor runs but has been silent", SERVICES),
    ("beat", "stop", "degraded", "^Degraded: the scheduler is stopped", ()),
]


@contextmanager
def without(fleet: Fleet, part: str, how: str) -> Iterator[None]:
    """A part of Mission Control stopped, or hanging, for as long as the block lasts."""
    pid = fleet.pid(part)
    end: Callable[[], object]
    if how == "hang":
        os.kill(pid, signal.SIGSTOP)
        end = lambda: os.kill(pid, signal.SIGCONT)  # noqa: E731
    else:
        fleet.ctl("stop", part)
        end = lambda: fleet.ctl("start", part)  # noqa: E731
    try:
        yield
    finally:
        end()


@pytest.mark.parametrize(("part", "how", "state", "title", "tiles"), PARTS, ids=[f"{p[0]} {p[1]}" for p in PARTS])
def test_a_part_of_mission_control_that_is_gone_is_named_and_what_it_hides_is_grey(
    fleet: Fleet, overview: Page, part: str, how: str, state: str, title: str, tiles: tuple[str, ...]
) -> None:
    session = signed_in(overview)
    since = time.monotonic()
    with without(fleet, part, how):
        told(overview, state, title, since)
        for tile in tiles:
            expect(overview.locator(f'.tile[data-service="{tile}"]')).not_to_have_attribute("data-state", "healthy")
        stays(overview, *tiles)
        if part in {"clickhouse", "collector"}:
            expect(overview.locator("#affected")).to_contain_text("Not known")
            expect(overview.locator("#affected")).not_to_contain_text("Nobody")
            expect(overview.locator('.tile[data-service="orders"]')).to_contain_text("not known")
        # Who comes now sees the same, drawn by the server.
        drawn = session.get(f"{fleet.pages}/", timeout=30)
        assert drawn.status_code == 200
        assert f'id="verdict" data-state="{state}"' in drawn.text
        assert "Everything is healthy" not in drawn.text
        own = overview.locator(f'[data-part="{part}"]')
        expect(own).to_have_attribute("data-state", "failing" if how == "stop" else "unknown")
    over(overview)


def signed_in(page: Page) -> requests.Session:
    session = requests.Session()
    for cookie in page.context.cookies():
        session.cookies.set(str(cookie.get("name")), str(cookie.get("value")))
    return session


def test_a_live_feed_that_is_lost_is_said_by_the_page_itself(fleet: Fleet, overview: Page) -> None:
    """Control hangs: nobody is left to tell the browser, so it has to know by itself."""
    since = time.monotonic()
    with without(fleet, "control", "hang"):
        told(overview, "unknown", "^Not known: the live feed is lost", since)
        expect(overview.locator("#lost")).to_contain_text(re.compile(r"Live feed lost: last known at \d\d:\d\d:\d\d"))
        expect(overview.locator("#affected")).not_to_contain_text("Nobody")
    over(overview)


def test_a_service_without_instances_is_setting_up_and_leaves_the_verdict_green(
    fleet: Fleet, overview: Page, orders: Orders
) -> None:
    orders.post("services", {"name": "planned"})
    try:
        tile = overview.locator('.tile[data-service="planned"]')
        expect(tile).to_have_attribute("data-state", "setup", timeout=SECONDS * 1000)
        expect(tile).to_contain_text("Setting up")
        expect(overview.locator("#verdict")).to_have_attribute("data-state", "healthy")
    finally:
        orders.delete("services/planned")
    expect(tile).to_have_count(0, timeout=SECONDS * 1000)


def test_a_service_that_only_reports_has_a_page(fleet: Fleet, overview: Page) -> None:
    name = "billing/eu west"
    report = spans(name, 30)
    until(lambda: report(fleet), 30, what="an export taken")
    row = overview.locator(f'.tile[data-service="{name}"]')
    expect(row).to_have_attribute("data-state", "reports", timeout=SECONDS * 1000)
    expect(overview.locator("#verdict")).to_have_attribute("data-state", "healthy")
    overview.goto(f"{fleet.pages}/services/")
    overview.get_by_role("link", name=name).click()
    expect(overview.get_by_role("heading", level=1)).to_have_text(name)
    expect(overview.locator("#service")).to_contain_text("Reports only")
    expect(overview.locator("#service")).to_contain_text("GET /bills")
    overview.wait_for_selector("#chart-rate.js-plotly-plot")


def spans(service: str, count: int) -> Callable[[Fleet], bool]:
    """An OTLP export of ``count`` server spans of a service that nobody registered; whether it was taken."""
    now = time.time_ns()
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    scope = group.scope_spans.add()
    for _ in range(count):
        scope.spans.add(
            trace_id=os.urandom(16),
            span_id=os.urandom(8),
            name="GET /bills",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=now - 20_000_000,
            end_time_unix_nano=now,
        )
    body, headers = request.SerializeToString(), {"Content-Type": "application/x-protobuf"}

    def send(fleet: Fleet) -> bool:
        return requests.post(f"{fleet.otlp}/v1/traces", data=body, headers=headers, timeout=10).status_code == 200

    return send
