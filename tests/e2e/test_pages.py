"""Every page in a real Chromium: both themes, wide and 375 px, no outside host, a quiet console, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Watch
from tests.fleet import Fleet
from tests.waiting import until

pytestmark = pytest.mark.browser

PAGES = [
    "/",
    "/services/",
    "/services/covenant/",
    "/traces/",
    "/gateway/",
    "/system/",
    "/events/",
    "/events/catalogue/",
    "/events/subscriptions/",
    "/events/subscriptions/mint/",
    "/events/catalogue/business.transaction.recorded/",
    "/events/dead-letters/",
    "/events/flow/",
    "/events/tester/",
]
WIDTHS = [(1440, 900), (375, 812)]

# What an automatic check can find without another's code: names, labels, landmarks, headings, ids.
FAULTS = """
() => {
  const faults = [];
  const name = (element) => (element.getAttribute('aria-label') || element.getAttribute('aria-labelledby') ||
    element.title || element.textContent || '').trim();
  const shown = (element) => element.getClientRects().length > 0;
  for (const element of document.querySelectorAll('a[href], button')) {
    if (shown(element) && !name(element)) faults.push('no name: ' + element.outerHTML.slice(0, 120));
  }
  for (const element of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
    const labelled = element.labels?.length || element.getAttribute('aria-label');
    if (!labelled) faults.push('no label: ' + element.outerHTML.slice(0, 120));
  }
  for (const element of document.querySelectorAll('[role=img]')) {
    if (!name(element)) faults.push('picture without words: ' + element.outerHTML.slice(0, 120));
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of ids.filter((id, n) => ids.indexOf(id) !== n)) faults.push('two elements have the id ' + id);
  if (document.querySelectorAll('main').length !== 1) faults.push('not one main');
  if (!document.querySelector('nav[aria-label]')) faults.push('no named navigation');
  const titles = document.querySelectorAll('h1').length;
  if (titles !== 1) faults.push(`not one h1 but ${titles}`);
  if (!document.documentElement.lang) faults.push('no language');
  for (const table of document.querySelectorAll('table')) {
    if (!table.querySelector('th[scope]')) faults.push('table without headed columns');
  }
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  for (const element of document.querySelectorAll('main *')) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !shown(element) || element.closest('svg') || element.disabled) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) {
      faults.push(`contrast ${((a + 0.05) / (b + 0.05)).toFixed(1)}: ${element.textContent.trim().slice(0, 40)}`);
    }
  }
  return [...new Set(faults)];
}
"""


@pytest.fixture(scope="module")
def trace_id(fleet: Fleet) -> str:
    """The main job, done once: its trace has the spans of gateway, nexus, covenant and mint."""
    headers = {"X-API-Key": fleet.credentials["demo_api_key"]}
    answer = requests.post(
        f"{fleet.gateway}/nexus/v1/intents", json={"text": "send 25 AZR to thandi"}, headers=headers, timeout=10
    )
    assert answer.status_code == 200, answer.text
    found = answer.headers["X-Trace-Id"]
    until(lambda: {"gateway", "nexus", "covenant", "mint"} <= services_of(fleet, found), 15, what="the whole trace")
    return found


def services_of(fleet: Fleet, trace_id: str) -> set[str]:
    headers = {"Authorization": f"Token {fleet.credentials['api_token']}"}
    answer = requests.get(f"{fleet.pages}/api/v1/traces/{trace_id}", headers=headers, timeout=10)
    return {span["service"] for span in answer.json()["spans"]} if answer.status_code == 200 else set()


@pytest.fixture(params=["dark", "light"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIDTHS, ids=["wide", "narrow"])
def view(
    browser: Browser, session: dict[str, object], watch: Watch, theme: str, request: pytest.FixtureRequest
) -> Iterator[Page]:
    width, height = request.param
    context = browser.new_context(
        storage_state=session,  # type: ignore[arg-type]
        viewport={"width": width, "height": height},
        color_scheme=theme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    watch.on(context)
    yield context.new_page()
    context.close()


def inspect(page: Page, watch: Watch, fleet: Fleet) -> None:
    expect(page.locator("#live-word")).to_have_text("Live")
    overflow = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, f"{overflow} px too wide"
    assert page.evaluate(FAULTS) == []
    assert watch.complaints == []
    assert watch.hosts == {fleet.pages.split("/")[2]}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_and_is_quiet(fleet: Fleet, view: Page, watch: Watch, path: str) -> None:
    view.goto(f"{fleet.pages}{path}")
    if path == "/services/covenant/":
        view.wait_for_selector("#chart-rate .main-svg, #chart-rate .empty")
    inspect(view, watch, fleet)


def test_the_main_job_is_one_trace(fleet: Fleet, view: Page, watch: Watch, trace_id: str) -> None:
    view.goto(f"{fleet.pages}/traces/{trace_id}/")
    rows = view.locator("button.span")
    shown = {row.get_attribute("data-service") for row in rows.all()}
    assert {"gateway", "nexus", "covenant", "mint"} <= shown
    expect(view.locator(".legend")).to_contain_text("mint")
    inspect(view, watch, fleet)


def test_a_trace_is_walked_by_keyboard_and_linked_to(fleet: Fleet, page: Page, trace_id: str) -> None:
    page.goto(f"{fleet.pages}/traces/{trace_id}/")
    rows = page.locator("button.span")
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    expect(rows.nth(1)).to_have_attribute("aria-pressed", "true")
    name = rows.nth(1).locator(".text").inner_text()
    expect(page.locator("#detail h3")).to_have_text(name)
    link = page.url
    assert re.search(r"#span=[0-9a-f]{16}$", link)
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#detail h3")).to_have_text(name)
    page.keyboard.press("End")


def test_filters_live_in_the_address(fleet: Fleet, page: Page, trace_id: str) -> None:
    page.goto(f"{fleet.pages}/traces/?service=nexus&min_ms=0&range=15m")
    expect(page.get_by_label("Service")).to_have_value("nexus")
    expect(page.locator(f'a[href="/traces/{trace_id}/"]')).to_be_visible()
    page.get_by_label("Failed only").check()
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("errors=1"))
    assert page.locator(f'a[href="/traces/{trace_id}/"]').count() == 0


def test_the_theme_is_chosen_and_kept(fleet: Fleet, page: Page) -> None:
    page.goto(f"{fleet.pages}/")
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between dark and light").click()
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.goto(f"{fleet.pages}/services/")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == light


def test_the_first_tab_stop_skips_to_the_content(fleet: Fleet, page: Page) -> None:
    page.goto(f"{fleet.pages}/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_every_service_shows_all_that_an_operator_asks(fleet: Fleet, page: Page) -> None:
    page.goto(f"{fleet.pages}/")
    expect(page.locator("#live-word")).to_have_text("Live")
    for name in ("aegis", "covenant", "nexus", "mint"):
        tile = page.locator(f'.tile[data-service="{name}"]')
        expect(tile).to_contain_text(f"{name}-1")
        expect(tile.locator("[data-f=state]")).to_have_text(re.compile("Healthy|Degraded|Failing|Unknown"))
        for word in ("Requests", "Errors", "p50", "p95", "p99", "breaker closed"):
            expect(tile).to_contain_text(word)
        expect(tile.locator("[data-f=check] time")).to_have_attribute("title", re.compile("UTC$"))


def test_a_page_tells_before_its_script_arrives(fleet: Fleet, browser: Browser, session: dict[str, object]) -> None:
    context = browser.new_context(storage_state=session, java_script_enabled=False)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{fleet.pages}/")
    expect(page.locator('.tile[data-service="covenant"]')).to_contain_text("covenant-1")
    expect(page.locator("#verdict h1")).not_to_be_empty()
    context.close()


def test_an_operator_holds_a_breaker_open_and_releases_it(fleet: Fleet, page: Page) -> None:
    page.goto(f"{fleet.pages}/services/aegis/")
    chip = page.locator("[data-f=breaker]")
    expect(chip).to_have_text("breaker closed")
    try:
        act(page, "Hold open")
        expect(chip).to_have_text("breaker held open", timeout=10_000)
        answer = requests.get(f"{fleet.gateway}/aegis/.well-known/jwks.json", timeout=5)
        assert (answer.status_code, answer.json()["failure"]) == (503, "breaker_open")
    finally:
        act(page, "Release")
    expect(chip).to_have_text("breaker closed", timeout=15_000)
    until(lambda: requests.get(f"{fleet.gateway}/aegis/.well-known/jwks.json", timeout=5).status_code == 200, 10)


def act(page: Page, verb: str) -> None:
    with page.expect_navigation():
        page.get_by_role("button", name=verb).click()
        page.get_by_label("Why?").fill("a test of the button")
        page.get_by_role("dialog").get_by_role("button", name=verb).click()
