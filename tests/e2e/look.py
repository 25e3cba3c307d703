"""Pictures of the bus's pages, to be looked at: every page, dark and light, wide and narrow.

``MC_TEST_FLEET=<MC_HOME of one that runs> python -m tests.e2e.look FOLDER [--fill] [--flood] [NAME …]``;
``--fill`` first makes what a busy week leaves behind (tests/e2e/fill.py), ``--flood`` strange amounts (flood.py).
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.e2e.bus import django
from tests.e2e.conftest import ARGUMENTS, log_in
from tests.fleet import Fleet, running_fleet

WIDTHS = {"wide": 1440, "narrow": 375}


def pages(fleet: Fleet) -> dict[str, str]:
    """Name → path; of one event, letter and stream the one with most to show."""
    said = django(
        fleet,
        "from apps.events.models import DeadLetter, Event\n"
        "event = Event.objects.exclude(causation_id='').filter(type__startswith='shop.order.placed').last()\n"
        "event = event or Event.objects.last()\n"
        "letter = DeadLetter.objects.exclude(stack='').filter(state='failed').last()\n"
        "print(event.event_id, letter.pk if letter else 0)",
    )
    event, letter = said.split()[-2:]
    return {
        "overview": "/",
        "stream": "/events/",
        "stream-none": "/events/?type=no.such",
        "event": f"/events/{event}/",
        "history": "/events/streams/order%2F7/",
        "subscriptions": "/events/subscriptions/",
        "subscription": "/events/subscriptions/billing/",
        "consumer": "/events/subscriptions/mint/",
        "letters": "/events/dead-letters/",
        "letters-key": "/events/dead-letters/?state=failed&key=order%2F7",
        "letters-none": "/events/dead-letters/?q=no-such",
        "letter": f"/events/dead-letters/{letter}/",
        "catalogue": "/events/catalogue/",
        "catalogue-none": "/events/catalogue/?q=no-such",
        "kind": "/events/catalogue/shop.order.placed/",
        "flow": "/events/flow/",
        "tester": f"/events/tester/?event={event}",
        "tester-none": "/events/tester/",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fill", action="store_true")
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--theme", action="append", choices=["dark", "light"])
    parser.add_argument("names", nargs="*", help="only these of the pages")
    said = parser.parse_intermixed_args()
    fleet = running_fleet(Path(os.environ["MC_TEST_FLEET"]).resolve())
    if said.fill:
        django(fleet, "from tests.e2e.fill import fill\nfill()")
    if said.flood:
        django(fleet, "from tests.e2e.flood import flood\nflood()")
    said.folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: path for name, path in pages(fleet).items() if not said.names or name in said.names}
    with sync_playwright() as playwright:
        path = os.environ.get("MC_CHROMIUM") or shutil.which("chromium")
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        state = None
        for theme in said.theme or ("dark", "light"):
            for width_name, width in WIDTHS.items():
                context = chromium.new_context(
                    storage_state=state,
                    viewport={"width": width, "height": 900},
                    color_scheme=theme,
                    reduced_motion="reduce",
                )
                page = context.new_page()
                if state is None:
                    log_in(page, fleet)
                    state = context.storage_state()
                for name, address in wanted.items():
                    page.goto(f"{fleet.pages}{address}")
                    page.locator("#live-word", has_text="Live").wait_for()
                    page.screenshot(path=said.folder / f"{name}-{width_name}-{theme}.png", full_page=True)
                context.close()
        chromium.close()


if __name__ == "__main__":
    main()
