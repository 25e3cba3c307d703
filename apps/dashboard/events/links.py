"""Where things of the bus have their page. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

OURS = "mission-control"
PLAIN = re.compile(r"[A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]*")
TAKEN = frozenset({"event", "rows", "streams", "catalogue", "subscriptions", "dead-letters", "flow", "tester"})
"""First steps below /events/ that are pages of their own."""


def event_url(event: Any) -> str:
    """The page of an event; others choose ids as they like, so that one that is no plain word goes as a parameter."""
    event_id = str(event.event_id)
    source = {} if event.source == OURS else {"source": event.source}
    if PLAIN.fullmatch(event_id) and event_id not in TAKEN:
        return f"/events/{event_id}/" + (f"?{urlencode(source)}" if source else "")
    return "/events/event/?" + urlencode({"id": event_id, **source})


def stream_url(name: str) -> str:
    """The page of a stream."""
    return f"/events/streams/{quote(name, safe='')}/" if name else "/events/"


def kind_url(name: str) -> str:
    """The page of a type."""
    return f"/events/catalogue/{quote(name, safe='')}/"


def source_url(name: str) -> str:
    """The events of a publisher."""
    return "/events/?" + urlencode({"source": name})


def flow_url(prefix: str) -> str:
    """The map of the types below ``prefix``."""
    return "/events/flow/?" + urlencode({"under": prefix})
