"""One normalised path for matching, authorising and forwarding, so that no two of them can disagree.

Owns RFC 3986 section 6.2.2 normalisation and what is refused outright. Knows nothing of routes.
"""

from __future__ import annotations

import re
from string import hexdigits
from urllib.parse import unquote

from services.kit.problem import Problem, Refused

MAX_TARGET = 16_384
"""Longest request target in bytes, query included; past it is 414."""

UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = bytes(UNRESERVED) + b"/!$&'()*+,;=:@"
_NORMAL = re.compile(rb"(?:/[A-Za-z0-9\-_~!$&'()*+,;=:@][A-Za-z0-9\-._~!$&'()*+,;=:@]*)+/?|/").fullmatch
"""Nothing to do: plain characters, and no segment that is empty or begins with a dot."""
_HEX = {(high + low).encode(): int(high + low, 16) for high in hexdigits for low in hexdigits}
_FORBIDDEN = {0x00: "a NUL", 0x2F: "an encoded slash", 0x5C: "an encoded backslash"}


def refuse(detail: str) -> Refused:
    """The one refusal of this file."""
    return Refused(Problem(400, "path_invalid", detail))


def normalise(raw: bytes) -> str:
    """The path of a request target, without its query, in the one form that everything else sees.

    Unreserved octets are decoded, other escapes are upper-cased, dot segments are removed and runs of
    slashes collapse. Raises Refused (400 ``path_invalid``) for what two servers could read in two ways: an
    encoded slash, backslash or NUL, a broken escape, a raw octet outside RFC 3986's path characters,
    and a dot segment that hides behind a parameter (``/..;x/``).
    """
    if _NORMAL(raw) is not None:
        return raw.decode("ascii")
    if not raw.startswith(b"/"):
        raise refuse("The request target must be a path that starts with '/'.")
    return _segments(_escapes(raw))


def _escapes(raw: bytes) -> str:
    head, *rest = raw.split(b"%")
    parts = [head]
    for piece in rest:
        octet = _HEX.get(piece[:2])
        if octet is None:
            raise refuse("The path holds a '%' that two hexadecimal digits do not follow.")
        if octet in _FORBIDDEN:
            raise refuse(f"The path holds {_FORBIDDEN[octet]}, which servers read differently.")
        parts.append(bytes((octet,)) if octet in UNRESERVED else b"%%%02X" % octet)
        parts.append(piece[2:])
    for index in (0, *range(2, len(parts), 2)):
        if parts[index].translate(None, _PLAIN):
            raise refuse("The path holds a character that must be percent-encoded.")
    return b"".join(parts).decode("ascii")


def _segments(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        if segment.startswith((".;", "..;")):
            raise refuse("The path hides a dot segment behind a parameter.")
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in {"", "."}:
            kept.append(segment)
            continue
        if index == last:
            kept.append("")  # a directory stays a directory: /a/b/.. is /a/
    return "/" + "/".join(kept)


_PARAMETERS = re.compile(";[^/]*")


def readings(path: str) -> set[str]:
    """How else servers read a normalised ``path``: all of it decoded, and without parameters in its segments.

    Servlets cut ``;x`` off each segment, before they decode or after it (RFC 2396 section 3.3); most others decode
    reserved octets too (``%40`` is ``@``). Raises Refused where that brings a dot segment out of hiding.
    """
    if "%" not in path and ";" not in path:
        return set()
    decoded, cut = unquote(path, "latin-1"), _PARAMETERS.sub("", path)
    found = {decoded, _PARAMETERS.sub("", decoded), cut, unquote(cut, "latin-1")}
    return {_segments(each) for each in found} - {path}
