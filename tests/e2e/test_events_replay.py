"""Replays as an operator begins and steers them: counted first, behind a canary, at a pace, into whom is chosen."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.bus import Endpoint, django, publish
from tests.fleet import Fleet
from tests.waiting import until

pytestmark = pytest.mark.browser

TYPE = "shop.refund.paid"


@pytest.fixture(scope="module")
def endpoint(fleet: Fleet) -> Iterator[Endpoint]:
    found = Endpoint()
    django(
        fleet,
        "from apps.events.subscriptions import actions\nfrom apps.events.models import Subscription\n"
        "Subscription.objects.filter(name__startswith='refunds').delete()\n"
        f"actions.create(dict(name='refunds', url={found.url!r}, patterns=[{TYPE!r}], handshake=False))",
    )
    yield found
    django(
        fleet,
        "from apps.events.models import Subscription\nSubscription.objects.filter(name__startswith='refunds').delete()",
    )
    found.close()


def replayed(endpoint: Endpoint) -> list[str]:
    """Subjects of what came marked, in order."""
    return [one["subject"] for one in endpoint.taken if one.get("mcreplay")]


def test_a_stream_is_replayed_into_a_new_webhook_behind_a_canary(fleet: Fleet, page: Page, endpoint: Endpoint) -> None:
    stream = f"refund/{uuid.uuid4()}"
    publish(fleet, *({"subject": f"refund/{n}"} for n in range(5)), type=TYPE, stream=stream)
    page.goto(f"{fleet.pages}/events/streams/{quote(stream, safe='')}/")
    page.get_by_role("button", name="Replay…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Stream")).to_have_value(stream)
    expect(dialog.get_by_label("Types or patterns")).to_have_value(TYPE)
    dialog.get_by_label("Into").select_option(label="a new webhook…")
    dialog.get_by_label("Name of the new one").fill("refunds-again")
    dialog.get_by_label("Its URL").fill("http://169.254.169.254/latest")
    go = dialog.get_by_role("button", name="Replay", exact=True)
    expect(go).to_be_disabled()
    dialog.get_by_role("button", name="Dry run").click()
    expect(dialog.locator("#replay-plan")).to_contain_text("5 events would be delivered once more")
    assert not replayed(endpoint), "a dry run sends nothing"
    dialog.get_by_label("Why?").fill("a test")
    go.click()
    expect(dialog.locator("#replay-error")).to_contain_text("url")
    dialog.get_by_label("Its URL").fill(endpoint.url)
    go.click()
    expect(dialog.locator("#replay-secret")).to_contain_text("whsec_")
    dialog.get_by_role("link", name="Follow it").click()
    page.wait_for_url(re.compile("/events/subscriptions/refunds-again/$"))
    job = page.locator('tr[data-job-state="confirm"]')
    expect(job).to_be_visible(timeout=20_000)
    assert replayed(endpoint) == ["refund/0"], "the canary, and nothing more"
    job.get_by_role("button", name="Go on with the rest").click()
    expect(page.locator('tr[data-job-state="done"]')).to_be_visible(timeout=20_000)
    assert replayed(endpoint) == [f"refund/{n}" for n in range(5)]


def test_a_replay_keeps_its_pace_is_paused_goes_on_and_is_cancelled(
    fleet: Fleet, page: Page, endpoint: Endpoint
) -> None:
    stream = f"refund/{uuid.uuid4()}"
    publish(fleet, *({"subject": f"slow/{n}"} for n in range(60)), type=TYPE, stream=stream)
    until(lambda: len([one for one in endpoint.taken if one["subject"].startswith("slow/")]) >= 60, 30, what="live")
    page.goto(f"{fleet.pages}/events/subscriptions/refunds/")
    page.get_by_role("button", name="Replay…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Into")).to_have_value("refunds")
    dialog.get_by_label("Stream").fill(stream)
    dialog.get_by_label("At most a second").fill("1")
    dialog.get_by_label("Canary").fill("0")
    dialog.get_by_role("button", name="Dry run").click()
    expect(dialog.locator("#replay-plan")).to_contain_text("60 events")
    dialog.get_by_label("Stream").fill("refund/none")
    expect(dialog.get_by_role("button", name="Replay", exact=True)).to_be_disabled()
    dialog.get_by_role("button", name="Dry run").click()
    expect(dialog.locator("#replay-plan")).to_contain_text("no event in the log matches")
    dialog.get_by_label("Stream").fill(stream)
    dialog.get_by_role("button", name="Dry run").click()
    dialog.get_by_role("button", name="Replay", exact=True).click()
    running = page.locator('tr[data-job-state="running"]')
    expect(running).to_contain_text(re.compile(r"[1-9]\d* of 60"), timeout=20_000)
    running.get_by_role("button", name="Pause").click()
    paused = page.locator('tr[data-job-state="paused"]')
    expect(paused).to_be_visible(timeout=10_000)
    expect(paused).to_contain_text("paused it")
    paused.get_by_role("button", name="Resume").click()
    expect(running).to_be_visible(timeout=10_000)
    running.get_by_role("button", name="Cancel").click()
    expect(page.locator('tr[data-job-state="cancelled"]')).to_be_visible(timeout=10_000)
    assert 0 < len([one for one in replayed(endpoint) if one.startswith("slow/")]) < 60
