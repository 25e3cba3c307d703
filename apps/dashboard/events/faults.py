"""What the log lacks, what it would not take, and how far its projections are: for the page of ourselves."""

from __future__ import annotations

from typing import Any

from apps.events import projections
from apps.events.archive import gaps
from apps.events.archive.models import Aside

HOLES, ASIDE = 20, 20
"""Rows of each that are shown: the first of what is missing, the newest of what was put aside."""


def found() -> dict[str, Any]:
    """``missing``, ``aside`` and ``projections``, as they are now."""
    builds = projections.progress()
    return {
        "missing": [{"source": one.key[0], "key": one.key[1], "start": one.start, "end": one.end} for one in _holes()],
        "aside": list(Aside.objects.defer("body")[:ASIDE]),
        "projections": [(one, 100 * one.position // max(one.target, 1)) for one in builds],
    }


def _holes() -> list[Any]:
    return gaps.holes(HOLES)
