"""The guide's example does what the guide says."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from apps.events import projections, upcast

pytestmark = pytest.mark.django_db

GUIDE = Path(__file__).parents[3] / "docs" / "events.md"


def test_the_guides_example_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "REGISTERED", {})
    monkeypatch.setattr(upcast.UPCASTERS, "_steps", {})
    text = GUIDE.read_text()
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) > 5
    # A module of its own, where dataclasses look their annotations up; and lines that are those of the page.
    example = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", example)
    for block in blocks:
        lines = "\n" * text[: block.start(1)].count("\n")
        exec(compile(lines + block[1], str(GUIDE), "exec"), example.__dict__)  # noqa: S102 - it is ours
