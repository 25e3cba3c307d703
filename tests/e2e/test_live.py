"""The promise of the overview, seen by a real Chromium: a service stops, fails, is cut off, comes back; no reload."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Watch, log_in
from tests.fleet import Fleet
from tests.waiting import patient, until

pytestmark = [pytest.mark.browser, pytest.mark.solo, pytest.mark.timeout(180)]

TILE = '.tile[data-service="covenant"]'


class Client:
    """Calls covenant through the gateway with the demo key, on one kept connection."""

    def __init__(self, fleet: Fleet) -> None:
        self._session = requests.Session()
        self._session.headers["X-API-Key"] = fleet.credentials["demo_api_key"]
        self._url = f"{fleet.gateway}/covenant/v1/transactions"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def call(self) -> requests.Response:
        return self._session.get(self._url, timeout=10)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with Client(fleet) as made:
        yield made


@pytest.fixture
def covenant_is_started_again(fleet: Fleet) -> Iterator[None]:
    yield
    if not fleet.pid("covenant"):
        fleet.ctl("start", "covenant")


def state_of_tile(page: Page) -> str:
    return page.locator(TILE).get_attribute("data-state") or ""


def wait_for(page: Page, condition: str, argument: Any, seconds: float, what: str) -> float:
    """Seconds until ``condition`` (JavaScript over ``argument``) holds in the page, looked at every frame."""
    started = time.monotonic()
    try:
        page.wait_for_function(condition, arg=argument, timeout=seconds * 1000)
    except Exception as error:
        raise AssertionError(
            f"{what} took over {seconds} s; the tile says {page.locator(TILE).inner_text()!r}"
        ) from error
    return time.monotonic() - started


STATE_IS = "state => document.querySelector('.tile[data-service=covenant]').dataset.state === state"
CHIP_IS = "state => document.querySelector('.tile[data-service=covenant] [data-f=breaker]').dataset.state === state"


@pytest.mark.usefixtures("covenant_is_started_again")
def test_a_stopped_service_turns_red_opens_its_breaker_and_comes_back_green(
    fleet: Fleet, page: Page, watch: Watch, client: Client
) -> None:
    page.goto(f"{fleet.pages}/")
    wait_for(page, STATE_IS, "healthy", 30, "green at the start")
    expect(page.locator("#live-word")).to_have_text("Live")
    page.evaluate("window.sameDocument = 'yes'")
    record_breaker(page)

    stopped = time.monotonic()
    fleet.ctl("stop", "covenant")
    left = 10 - (time.monotonic() - stopped)
    wait_for(page, STATE_IS, "failing", left, "red after the stop")
    print(f"red at most {time.monotonic() - stopped:.1f} s after the stop was asked for")
    expect(page.locator(TILE)).to_contain_text("covenant-1: ")
    expect(page.locator("#verdict")).to_have_attribute("data-state", "failing")
    expect(page.locator("#verdict [data-f=title]")).to_contain_text("covenant")

    # Failing traffic: the breaker opens on the tile within 5 s of its beginning.
    started = time.monotonic()
    with traffic(fleet):
        wait_for(page, CHIP_IS, "open", 5, "the breaker on the tile")
        print(f"breaker open on the tile {time.monotonic() - started:.1f} s after traffic began to fail")
        refused = until(lambda: opened(client), 5, what="a call refused by the open breaker")
    answer, took = refused
    assert answer.status_code == 503
    assert answer.json()["failure"] == "breaker_open"
    assert int(answer.headers["Retry-After"]) >= 1
    assert took < patient(0.050), f"an open breaker took {took * 1000:.0f} ms to refuse"
    print(f"refused in {took * 1000:.1f} ms")

    # Nobody calls any more: its time in open runs out, and it waits for trial calls by itself.
    wait_for(page, CHIP_IS, "half_open", 10, "half-open")

    fleet.ctl("start", "covenant")
    took = wait_for(page, STATE_IS, "healthy", 30, "green after the start")
    print(f"green {took:.1f} s after the start")
    wait_for(page, CHIP_IS, "closed", 10, "the breaker closed")
    assert client.call().status_code == 200

    states = page.evaluate("window.breakerStates")
    assert [states[0], states[-2], states[-1]] == ["closed", "half_open", "closed"], states
    assert "open" in states, states

    assert page.evaluate("window.sameDocument") == "yes", "the page was reloaded"
    assert watch.complaints == []
    assert watch.hosts == {fleet.pages.split("/")[2]}


def record_breaker(page: Page) -> None:
    """Keep every state that the tile's breaker shows."""
    page.evaluate(
        """() => {
          const chip = document.querySelector('.tile[data-service=covenant] [data-f=breaker]');
          window.breakerStates = [chip.dataset.state];
          new MutationObserver(() => window.breakerStates.push(chip.dataset.state))
            .observe(chip, { attributes: true, attributeFilter: ['data-state'] });
        }"""
    )


def opened(client: Client) -> tuple[requests.Response, float] | None:
    """A call that the breaker refused, and how long it took."""
    started = time.perf_counter()
    answer = client.call()
    took = time.perf_counter() - started
    return (answer, took) if answer.status_code == 503 and answer.json().get("failure") == "breaker_open" else None


class traffic:
    """Calls to covenant from four clients for as long as the block lasts."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._over = Event()
        self._pool = ThreadPoolExecutor(4)

    def __enter__(self) -> None:
        self._running = [self._pool.submit(self._call) for _ in range(4)]

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for done in self._running:
            done.result()

    def _call(self) -> None:
        with Client(self._fleet) as client:
            while not self._over.wait(0.05):
                answer = client.call()
                assert answer.status_code in {200, 502, 503, 504}, answer.text


def test_a_browser_that_was_cut_off_resumes(fleet: Fleet, page: Page) -> None:
    """The network goes and comes back: the page says so, and goes on from where it was, without a reload."""
    page.add_init_script(
        """
        window.frames_ = []; window.addresses = [];
        const Real = WebSocket;
        window.WebSocket = class extends Real {
          constructor(url) {
            super(url);
            window.addresses.push(url);
            window.newest = this;
            this.addEventListener('message', (event) => window.frames_.push(JSON.parse(event.data)));
          }
        };
        """
    )
    page.goto(f"{fleet.pages}/")
    page.wait_for_function("() => window.frames_.length >= 3")
    page.evaluate("() => { window.cut = window.frames_.at(-1); window.frames_.length = 0; window.newest.close(); }")
    page.wait_for_function("() => window.frames_.length >= 2", timeout=10_000)
    cut, frames = page.evaluate("() => [window.cut, window.frames_]")
    assert f"seq={cut['seq']}" in page.evaluate("() => window.addresses.at(-1)")
    assert frames[0]["type"] == "delta"
    assert frames[0]["epoch"] == cut["epoch"]
    assert [frame["seq"] for frame in frames] == list(range(cut["seq"] + 1, cut["seq"] + 1 + len(frames)))
    expect(page.locator("#live-word")).to_have_text("Live")


def test_logging_out_elsewhere_ends_the_feed_and_the_page(fleet: Fleet, browser: Any) -> None:
    context = browser.new_context()
    page, other = context.new_page(), context.new_page()
    log_in(page, fleet)
    expect(page.locator("#live-word")).to_have_text("Live")
    other.goto(f"{fleet.pages}/traces/")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url(f"{fleet.pages}/login/")
    page.wait_for_url(f"{fleet.pages}/login/?next=/", timeout=40_000)
    context.close()
