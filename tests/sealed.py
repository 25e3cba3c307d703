"""What stands in an envelope on Redis, for a test that looks over the shoulders of those who hold the key."""

from __future__ import annotations

import json
from typing import Any

from services.kit.seal import unwrap


def said(data: bytes | str | None) -> dict[str, Any]:
    """The message, whoever sealed it; nothing when there is none."""
    if not data:
        return {}
    found: dict[str, Any] = json.loads(unwrap(data)[2])
    return found
