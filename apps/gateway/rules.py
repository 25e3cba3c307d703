"""What a route's path, hosts and callers and an issuer's key address may look like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

from apps.gateway.core.config import EVERYONE
from apps.registry.models import check_address

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST = rf"(\*\.)?{LABEL}(\.{LABEL})*"
HOST_HINT = "Use a lower-case host name without port, such as api.example.org or *.example.org."
SEGMENTS = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?")


def check_path(value: str) -> None:
    """A path in its one normal form, so that what matches is what is forwarded (RFC 3986 sections 3.3, 6.2)."""
    if not value.startswith("/"):
        raise ValidationError("The path must start with a slash.")
    if not SEGMENTS.fullmatch(value):
        raise ValidationError("Use plain segments between single slashes: no spaces, '%', '?', '#' or empty segments.")
    if any(segment in {".", ".."} for segment in value.split("/")):
        raise ValidationError("The path may not hold '.' or '..' segments.")
    if value == "/-" or value.startswith("/-/"):
        raise ValidationError("/-/ belongs to the gateway itself (its health answers there).")


def check_who(auth: Sequence[str], issuers: Sequence[str], allow: Sequence[str], scopes: Sequence[str]) -> None:
    """Who may call is said, and said once: nothing is open because a field was left as it was."""
    wrong: dict[str, str] = {}
    if not auth:
        asked = {"issuers": issuers, "allow": allow, "scopes": scopes}
        wrong = {name: "A public route asks nobody who they are: leave this empty." for name in asked if asked[name]}
    elif not allow:
        wrong["allow"] = "Say who may call: consumers by name, groups as @group, or * for every consumer."
    elif EVERYONE in allow and len(allow) > 1:
        wrong["allow"] = "* is every consumer already: leave the others out, or leave it out."
    if "jwt" in auth and not issuers:
        wrong["issuers"] = "Name the issuers whose tokens open it."
    elif auth and issuers and "jwt" not in auth:
        wrong["issuers"] = "Only jwt credentials have an issuer: add jwt, or leave this empty."
    if wrong:
        raise ValidationError(wrong)


def check_jwks_url(value: str) -> None:
    """An absolute http(s) address without user, password or fragment."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValidationError("This address can't be read.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValidationError("Give an address such as https://issuer.example.org/.well-known/jwks.json.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValidationError("The address may not carry a user, a password or a fragment.")
    if any(character <= " " or character == "\x7f" for character in value):
        raise ValidationError("The address holds a space or a control character.")
    check_address(parts.hostname, port or (443 if parts.scheme == "https" else 80))
