"""pip's settings in uv's words: both must ask the same index, by the same proxy, with the same certificates. Pure.

People set up pip (``PIP_INDEX_URL``, ``pip.conf``); uv reads none of that.
"""

from __future__ import annotations

import ast
import re

FLAGS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
    "cert": "--cert",
}
"""pip's name and uv's argument; each may be given several times but the first."""

ORDER = ("global.", "install.", ":env:.")
"""Where pip keeps a setting; the later wins."""


def arguments(listed: str) -> list[str]:
    """uv's arguments for what ``pip config list`` said."""
    settings: dict[str, str] = {}
    lines = [match.groups() for match in re.finditer(r"^(\S+?\.)([a-z-]+)=(.+)$", listed, re.MULTILINE)]
    for _, name, value in sorted(lines, key=lambda line: ORDER.index(line[0]) if line[0] in ORDER else -1):
        try:
            settings[name] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue
    found = [part for name, flag in FLAGS.items() for value in settings.get(name, "").split() for part in (flag, value)]
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        found.append("--no-index")
    return found
