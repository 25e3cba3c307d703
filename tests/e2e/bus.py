"""What tests of the bus's pages share: events published as Mission Control's own, and a webhook's other end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from playwright.sync_api import Page

from tests.fleet import ROOT, Fleet

TYPE = "shop.parcel.sent"


def django(fleet: Fleet, code: str) -> str:
    """What ``code`` prints, run as Mission Control's own."""
    argv = [sys.executable, "manage.py", "shell", "-v0", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, env=fleet.env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def publish(fleet: Fleet, *events: dict[str, Any], type: str = TYPE, stream: str = "") -> list[str]:
    """Their ids. All are of ``stream``, or each of its own."""
    said = django(
        fleet,
        "import json\nfrom apps.events.actions import publish_all\nfrom apps.events.storing import Draft\n"
        f"more, events = dict(stream={stream!r}), json.loads({json.dumps(events)!r})\n"
        f"drafts = [Draft({type!r}, one, subject=one['subject'], **more) for one in events]\n"
        "print(json.dumps([str(one.event_id) for one in publish_all(drafts)]))",
    )
    ids: list[str] = json.loads(said)
    return ids


class Endpoint:
    """A webhook's other end: takes nothing that holds poison, until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.taken: list[dict[str, Any]] = []
        self.refused_at = 0.0
        """When it last said no, by the monotonic clock."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                bad = event["data"].get("poison") and not outer.mended
                if bad:
                    outer.refused_at = time.monotonic()
                else:
                    outer.taken.append(event)
                self.send_response(500 if bad else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_OPTIONS(self) -> None:
                self.send_response(200)
                self.send_header("WebHook-Allowed-Origin", self.headers["WebHook-Request-Origin"])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self.server.shutdown()
        self.server.server_close()


def confirm(page: Page, verb: str) -> None:
    """Press the button, say why, and wait for the page that follows."""
    page.get_by_role("button", name=verb, exact=True).click()
    page.get_by_role("dialog").get_by_label("Why?").fill("a test of the button")
    with page.expect_navigation():
        page.get_by_role("dialog").get_by_role("button", name=verb).click()
