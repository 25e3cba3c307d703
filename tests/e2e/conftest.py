"""A real Chromium, logged in to the real system; whatever it complains of fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.fleet import Fleet

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Watch:
    """What a browser said on its console, and which hosts it asked."""

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def on(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.page.url if message.page else ''}: {message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.hosts.add(request.url.split("/")[2])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium per file: while Playwright lives it holds the event loop, and other files need theirs."""
    path = os.environ.get("MC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def session(browser: Browser, fleet: Fleet) -> dict[str, object]:
    """The cookies of a browser that has logged in through the form."""
    context = browser.new_context()
    page = context.new_page()
    log_in(page, fleet)
    state: dict[str, object] = dict(context.storage_state())
    context.close()
    return state


def log_in(page: Page, fleet: Fleet) -> None:
    """As a person does: open any page, be asked, answer."""
    admin = fleet.credentials["admin"]
    page.goto(f"{fleet.pages}/")
    page.get_by_label("User name").fill(admin["username"])
    page.get_by_label("Password").fill(admin["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{fleet.pages}/")


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page(browser: Browser, session: dict[str, object], watch: Watch) -> Iterator[Page]:
    """A logged-in page, dark and wide."""
    context = browser.new_context(
        storage_state=session,  # type: ignore[arg-type]
        viewport={"width": 1440, "height": 900},
        color_scheme="dark",
    )
    watch.on(context)
    page = context.new_page()
    yield page
    context.close()
