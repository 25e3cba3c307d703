"""The curl lines of the guide, sent as curl would."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from apps.events.intake import overload
from apps.events.models import Event
from tests.unit.events.intake.test_publish import Publisher

pytestmark = pytest.mark.django_db

GUIDE = Path(__file__).parents[4] / "docs" / "events.md"


def test_each_line_publishes_what_the_guide_says(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    overload.depth = overload.Depth()
    admin = Publisher("admin", "admin")
    lines = [
        shlex.split(line)
        for block in re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        for line in re.split(r"\n(?=curl )", block.replace("\\\n", " "))
    ]
    lines = [words for words in lines if "$MC/api/v1/events" in words[2]]
    assert len(lines) == 4
    for words in lines:
        fields = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
        assert fields.pop("Authorization") == "Bearer $TOKEN"
        kind = fields.pop("Content-Type")
        body = words[words.index("-d") + 1]
        query = words[2].removeprefix("$MC/api/v1/events")
        named = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in fields.items()}
        answer = admin.send(body, kind, query, **named)
        assert (answer.status_code, answer.json()["refused"]) == (202, 0), answer.content
    assert list(Event.objects.order_by("id").values_list("source", "type")) == [
        ("client/admin", "library.book.bought"),
        ("client/admin", "library.book.lent"),
        ("client/admin", "library.book.lent"),
        ("client/admin/shelf", "library.shelf.built"),
        ("client/admin/shelf", "library.shelf.built"),
    ]
