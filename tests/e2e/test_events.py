"""The pages of the bus as an operator uses them: the stream as it grows, dead letters, a schema that is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.bus import TYPE, Endpoint, confirm, django, publish
from tests.fleet import Fleet
from tests.waiting import until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def endpoint(fleet: Fleet) -> Iterator[Endpoint]:
    found = Endpoint()
    django(
        fleet,
        "from apps.events.subscriptions import actions\nfrom apps.events.models import Subscription\n"
        "Subscription.objects.filter(name='parcels').delete()\n"
        f"wanted = dict(name='parcels', url={found.url!r}, patterns=[{TYPE!r}], handshake=False, max_attempts=1)\n"
        "actions.create(wanted)",
    )
    yield found
    # Whatever a test left: who follows finds no endpoint that is gone.
    django(
        fleet,
        "from apps.events.models import Subscription\n"
        "Subscription.objects.filter(name__in=['parcels', 'e2e-hook', 'e2e-still', 'e2e-ghost']).delete()",
    )
    found.close()


def test_an_event_shows_as_it_is_published_unless_the_reader_holds_still(fleet: Fleet, page: Page) -> None:
    page.goto(f"{fleet.pages}/events/?type=shop.%23")
    expect(page.locator("#live-word")).to_have_text("Live")
    (first,) = publish(fleet, {"subject": "order/live"}, type="shop.order.seen")
    expect(page.locator(f'#events a[href="/events/{first}/"]')).to_be_visible(timeout=10_000)
    page.get_by_role("button", name="Pause").click()
    (second,) = publish(fleet, {"subject": "order/paused"}, type="shop.order.seen")
    expect(page.locator("#news")).to_contain_text("since you paused", timeout=10_000)
    assert page.locator(f'#events a[href="/events/{second}/"]').count() == 0
    page.get_by_role("button", name="Resume").click()
    row = page.locator(f'#events a[href="/events/{second}/"]')
    expect(row).to_be_visible(timeout=10_000)
    row.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("shop.order.seen")
    expect(page.locator("main")).to_contain_text("order/paused")


def test_poison_is_grouped_redriven_behind_a_canary_and_gone(fleet: Fleet, page: Page, endpoint: Endpoint) -> None:
    page.goto(f"{fleet.pages}/events/dead-letters/?subscription=parcels")
    expect(page.locator("#live-word")).to_have_text("Live")
    page.evaluate("() => { window.sameDocument = true; }")
    publish(fleet, *({"subject": f"parcel/{n}", "poison": True} for n in range(3)), {"subject": "parcel/0", "after": 1})
    group = page.locator("#letters tr[data-fingerprint]")
    expect(group.locator("td.num b").first).to_have_text("3", timeout=20_000)
    late = time.monotonic() - endpoint.refused_at
    assert late < 10, f"shown {late:.1f} s after the last attempt"
    expect(group).to_have_count(1)
    expect(page.locator("#counts [data-f=failed]")).to_have_text("3", timeout=10_000)
    endpoint.mended = True
    group.get_by_role("button", name="Redrive").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("#redrive-plan")).to_contain_text("3 letters would be tried")
    dialog.get_by_role("button", name="Dry run").click()
    expect(dialog.locator("#redrive-plan")).to_contain_text("1 event behind them would follow")
    assert not endpoint.taken, "a dry run sends nothing"
    dialog.get_by_label("Why?").fill("a test")
    dialog.get_by_role("button", name="Redrive").click()
    job = page.locator('tr[data-job-state="confirm"]')
    expect(job).to_be_visible(timeout=20_000)
    job.get_by_role("button", name="Go on with the rest").click()
    expect(page.locator("#counts [data-f=failed]")).to_have_text("0", timeout=20_000)
    expect(page.locator("#letters")).to_contain_text("None matches", timeout=20_000)
    until(lambda: len(endpoint.taken) == 4, 10, what="every event, and the one that waited behind")
    expect(page.locator("tr[data-job]").first).to_have_attribute("data-job-state", "done", timeout=20_000)
    assert page.evaluate("() => window.sameDocument"), "all of it live: the page was never loaded again"


def test_a_list_is_drawn_anew_under_whoever_stands_on_its_buttons(fleet: Fleet, page: Page, endpoint: Endpoint) -> None:
    """A dialog gives the focus back to the button that opened it: the list must not stay as it was then."""
    endpoint.mended = False
    page.goto(f"{fleet.pages}/events/dead-letters/?subscription=parcels")
    expect(page.locator("#live-word")).to_have_text("Live")
    publish(fleet, {"subject": "parcel/still", "poison": True})
    group = page.locator("#letters tr[data-fingerprint]")
    expect(group).to_be_visible(timeout=20_000)
    group.get_by_role("button", name="Redrive").focus()
    publish(fleet, {"subject": "parcel/still-2", "poison": True})
    expect(group.locator("td.num b").first).to_have_text("2", timeout=20_000)
    expect(group.get_by_role("button", name="Redrive")).to_be_focused()
    endpoint.mended = True
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("#redrive-plan")).to_contain_text("2 letters would be tried")
    dialog.get_by_label("Canary").fill("0")
    dialog.get_by_role("button", name="Redrive").click()
    expect(page.locator("#letters")).to_contain_text("None matches", timeout=20_000)
    expect(page.locator("#jobs")).to_contain_text("All 2 went well.")


def test_an_edited_letter_is_retried_and_names_its_original_as_its_cause(
    fleet: Fleet, page: Page, endpoint: Endpoint
) -> None:
    endpoint.mended = False
    # A browser's own numbers would make it …992, and nobody would see that in the difference.
    serial = 2**53 + 1
    (original,) = publish(fleet, {"subject": "parcel/9", "poison": True, "serial": serial})
    page.goto(f"{fleet.pages}/events/dead-letters/?subscription=parcels&q={original}")
    page.locator("#letters tr[data-fingerprint] a").first.click(timeout=20_000)
    page.locator("#letters tr[data-letter] a").first.click()
    page.get_by_role("button", name="Edit and retry").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("source, locked")
    expect(dialog.get_by_role("button", name="Retry with this")).to_be_disabled()
    area = dialog.get_by_label("Payload")
    area.fill(area.input_value().replace(str(serial), str(serial + 1)))
    expect(dialog.locator("#edit-diff tr")).to_have_count(1)
    expect(dialog.locator("#edit-diff")).to_contain_text(str(serial + 1))
    area.fill(json.dumps({"subject": "parcel/9", "poison": False, "serial": serial}))
    expect(dialog.locator("#edit-diff tr")).to_have_count(1)
    expect(dialog.locator("#edit-diff")).to_contain_text("/poison")
    dialog.get_by_label("Why?").fill("it was no poison")
    dialog.get_by_role("button", name="Retry with this").click()
    page.wait_for_url(re.compile(r"/events/dead-letters/\d+/$"))
    expect(page.locator("main")).to_contain_text("stands in the place of")
    expect(page.locator("h1 + .state")).to_contain_text("taken in the end", timeout=20_000)
    page.get_by_role("link", name="Event", exact=True).click()
    tree = page.locator("section[aria-labelledby=tree-title] tbody tr")
    expect(tree.nth(0).locator(f'a[href="/events/{original}/"]')).to_be_visible()
    expect(tree.nth(1)).to_contain_text("this one")
    until(lambda: endpoint.taken[-1]["data"] == {"subject": "parcel/9", "poison": False, "serial": serial}, 10)
    assert endpoint.taken[-1]["causationid"] == original


def test_the_overview_says_whose_dead_letters_there_are_and_leads_to_them(
    fleet: Fleet, page: Page, endpoint: Endpoint
) -> None:
    endpoint.mended = False
    page.goto(fleet.pages)
    expect(page.locator("#live-word")).to_have_text("Live")
    publish(fleet, {"subject": "parcel/overview", "poison": True})
    expect(page.locator("#verdict")).to_contain_text(re.compile(r"\d+ dead letters? of .*parcels"), timeout=20_000)
    assert page.locator("#verdict").get_attribute("data-state") != "healthy"
    page.locator("#verdict").get_by_role("link", name="Dead letters").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Dead letters")
    expect(page.locator("#letters")).to_contain_text("parcels")


def test_a_hole_in_the_log_leads_to_which_events_are_missing_and_how_they_are_fetched(fleet: Fleet, page: Page) -> None:
    django(
        fleet,
        "from apps.events.models import Stream\n"
        "Stream.objects.create(name='@e2e-nobody/k', version=9, missing=2, holes=[[3, 4]])",
    )
    try:
        page.goto(fleet.pages)
        verdict = page.locator("#verdict")
        expect(verdict).to_contain_text("2 events of publishers missing in the log", timeout=20_000)
        verdict.get_by_role("link", name="Missing events").click()
        missing = page.get_by_role("region", name=re.compile("Missing in the log"))
        expect(missing).to_be_in_viewport()
        expect(missing).to_contain_text("e2e-nobody")
        expect(missing).to_contain_text("manage.py events repair")
    finally:
        django(fleet, "from apps.events.models import Stream\nStream.objects.filter(name='@e2e-nobody/k').delete()")


def test_a_services_consumer_says_how_far_it_is_and_one_that_is_not_heard_has_no_number(
    fleet: Fleet, page: Page
) -> None:
    django(
        fleet,
        "from apps.events.models import Subscription\n"
        "Subscription.objects.get_or_create(name='e2e-ghost', defaults=dict(kind='consumer', patterns=['e2e.#']))",
    )
    page.goto(f"{fleet.pages}/events/subscriptions/")
    # It says so within ten seconds of its start, and the page is drawn anew when the feed hears of it.
    mint = page.locator('tr[data-subscription="mint"]')
    expect(mint.locator("td[data-label=lag]")).to_have_text(re.compile(r"^[\d,]+$"), timeout=60_000)
    expect(mint.locator(".state")).to_have_text("active")
    ghost = page.locator('tr[data-subscription="e2e-ghost"]')
    expect(ghost.locator("td[data-label=lag]")).to_have_text("not heard")
    expect(ghost.locator(".state")).to_have_text("silent")
    page.goto(f"{fleet.pages}/events/flow/")
    expect(page.locator(".flow-list")).to_contain_text("e2e-ghost, never heard")
    expect(page.locator(".flow-list").get_by_role("link", name=re.compile("^mint")).first).to_be_visible()


def test_a_letter_that_was_taken_while_its_page_was_on_its_way_is_shown_as_taken(
    fleet: Fleet, page: Page, endpoint: Endpoint
) -> None:
    """No count changes after that, so nothing tells the page."""
    letter = django(
        fleet,
        "from datetime import UTC, datetime\nfrom apps.events.models import DeadLetter, Subscription\n"
        "still = Subscription.objects.create(name='e2e-still', patterns=['e2e.#'], state='paused', "
        f"url={endpoint.url!r}, created_at=datetime.now(UTC))\n"
        "print(DeadLetter.objects.create(subscription=still, event_id='1', type='e2e.parcel.sent', key='k', place=1,"
        " state='redriving', created_at=datetime.now(UTC)).pk)",
    )

    def late(route: Route) -> None:
        answer = route.fetch()
        django(
            fleet,
            "from apps.events.models import DeadLetter\n"
            + f"DeadLetter.objects.filter(pk={letter}).update(state='resolved')",
        )
        route.fulfill(response=answer)

    page.route(f"**/events/dead-letters/{letter}/", late, times=1)
    page.goto(f"{fleet.pages}/events/dead-letters/{letter}/")
    expect(page.locator("h1 + .state")).to_contain_text("taken in the end", timeout=20_000)


def test_a_schema_that_breaks_a_consumer_is_refused_naming_it(fleet: Fleet, page: Page) -> None:
    page.goto(f"{fleet.pages}/events/catalogue/business.transaction.recorded/")
    area = page.get_by_label("JSON Schema")
    document = json.loads(area.input_value())
    document["properties"].pop("amount")
    document["required"].remove("amount")
    area.fill(json.dumps(document))
    for button, word in (("Try it", "It would be refused"), ("Register", "Refused")):
        # The refusal is what is asked for; a browser notes every answer of 409 by itself.
        page.get_by_role("button", name=button).click()
        said = page.locator("#schema-said")
        expect(said).to_contain_text(word)
        expect(said).to_contain_text("mint would break")
    page.reload()
    expect(page.locator("main")).to_contain_text("version 1")


def test_a_webhook_is_made_tried_paused_and_given_a_new_secret(fleet: Fleet, page: Page, endpoint: Endpoint) -> None:
    django(fleet, "from apps.events.models import Subscription\nSubscription.objects.filter(name='e2e-hook').delete()")
    page.goto(f"{fleet.pages}/events/subscriptions/")
    page.get_by_role("button", name="New webhook").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("e2e-hook")
    dialog.get_by_label("URL").fill("http://169.254.169.254/latest")
    dialog.get_by_label("Patterns, by spaces").fill("e2e.#")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.locator("#webhook-error")).to_contain_text("url")
    dialog.get_by_label("URL").fill(endpoint.url)
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.locator("#webhook-secret")).to_contain_text("whsec_")
    with page.expect_navigation():
        dialog.get_by_role("button", name="Close").click()
    page.locator('tr[data-subscription="e2e-hook"] a').first.click()
    confirm(page, "Pause")
    expect(page.locator("h1 + .state")).to_have_text("paused")
    confirm(page, "Resume")
    expect(page.locator("h1 + .state")).to_have_text("active")
    for button, verb, shown in (("Test", "Send", "outcome: delivered"), ("Rotate secret", "Rotate", "secret: whsec_")):
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_role("dialog").get_by_label("Why?").fill("a test")
        page.get_by_role("dialog").get_by_role("button", name=verb).click()
        expect(page.locator("#confirm-text")).to_contain_text(shown, timeout=15_000)
        with page.expect_navigation():
            page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(page.locator("main")).to_contain_text("control.sample.sent")
    django(fleet, "from apps.events.models import Subscription\nSubscription.objects.filter(name='e2e-hook').delete()")


@pytest.mark.parametrize("width", [1440, 375])
def test_the_flow_says_what_nobody_takes_and_leaves_idle_types_to_a_button(
    fleet: Fleet, page: Page, width: int
) -> None:
    publish(fleet, {"subject": "e2e/untaken"}, type="e2e-flow.nobody.listens")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{fleet.pages}/events/flow/")
    told = page.get_by_role("list", name="What is wrong")
    expect(told).to_contain_text("taken by nobody")
    shown = page.locator(".title-line .muted")
    few = shown.inner_text()
    page.get_by_role("link", name=re.compile(r"Show idle \(\d+\)")).click()
    expect(page.get_by_role("link", name="Hide idle")).to_be_visible()
    assert int(shown.inner_text().split()[0].replace(",", "")) > int(few.split()[0].replace(",", ""))
    page.get_by_role("link", name="Hide idle").click()
    expect(shown).to_have_text(few)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{fleet.pages}/events/flow/?under=e2e-flow")
    types = page.locator(".flow-list")
    expect(types.locator("li").filter(has_text="e2e-flow.nobody.listens")).to_contain_text("nobody takes it")
    if width > 900:
        page.locator("svg.flow a", has_text="e2e-flow.nobody.listens").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("e2e-flow.nobody.listens")
