"""What a subscription may be: each fault is a sentence beside the field that it is in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

from apps.events.subscriptions.condition import ConditionError, compiled
from apps.lib.addresses import Guard, literal
from services.kit.events import patterns
from services.kit.events.cloudevent import NO_TEXT

MOST_PATTERNS: Final = 50
HOST: Final = re.compile(
    r"(?=.{1,253}\.?$)(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.IGNORECASE
)
"""What a name server can be asked for (RFC 1035 section 2.3.4), and the underscore that some have in their networks."""
PORTS: Final = {"http": 80, "https": 443}


def check(fields: Mapping[str, Any], guard: Guard) -> None:
    """ValidationError, by field, for what ``fields`` (those that are said) can't be."""
    found = {
        "patterns": patterns_fault(fields["patterns"]) if "patterns" in fields else "",
        "filter": _filter(fields.get("filter") or ""),
        "source": "It holds a character that no source has." if NO_TEXT.search(fields.get("source") or "") else "",
        "url": url_fault(fields["url"], guard) if "url" in fields else "",
    }
    if faults := {name: fault for name, fault in found.items() if fault}:
        raise ValidationError(faults)


def patterns_fault(given: Any) -> str:
    """Why these are no patterns; empty when they are."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(one, str) for one in given):
        return "Give a list of patterns, such as business.order.* or business.#."
    if not 1 <= len(given) <= MOST_PATTERNS:
        return f"Give 1 to {MOST_PATTERNS} patterns; these are {len(given):,}."
    if len(set(given)) < len(given):
        return "Each pattern may be there once."
    for one in given:
        try:
            patterns.segments(one)
        except patterns.PatternError as error:
            return str(error)
    return ""


def _filter(text: str) -> str:
    if not text:
        return ""
    try:
        compiled(text)
    except ConditionError as error:
        return str(error)
    return ""


def host_alone(url: str) -> str:
    """Of ``url`` what may be told to whoever can't change it: in path and query many services have their secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…" if parts.netloc else ""


def url_fault(url: str, guard: Guard) -> str:
    """Why nothing could be delivered to ``url``; empty when that can't be seen."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "A URL is printable ASCII without spaces; write others percent-encoded, and a name as IDNA has it."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "This is no URL."
    if parts.scheme not in PORTS or not parts.hostname:
        return "A URL begins with https:// or http:// and names a host."
    if parts.username is not None or parts.password is not None:
        return "A URL must not hold a login: requests are signed instead."
    if "#" in url:
        return "A URL that is called has no fragment."
    if port == 0:
        return "Port 0 is none."
    if literal(parts.hostname) is None and not HOST.fullmatch(parts.hostname):
        return "The host name is none: labels of 1 to 63 letters, digits and hyphens, 253 characters at most."
    refused = guard.early(parts.hostname, port or PORTS[parts.scheme])
    return f"The address is not allowed: {refused}." if refused else ""
