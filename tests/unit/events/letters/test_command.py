"""``manage.py events``: redrives and replays from a terminal."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.events.letters.models import RedriveJob
from tests.unit.events.letters.delivery import failed, hook, published

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _quiet(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


def said(*words: str) -> str:
    out = StringIO()
    call_command("events", *words, stdout=out)
    return out.getvalue()


def test_a_redrive_is_looked_at_begun_listed_and_cancelled() -> None:
    failed(hook(), "a", behind=2)
    assert "1 events, 2 wait behind them" in said("redrive", "hook", "--dry-run")
    assert not RedriveJob.objects.exists()
    assert "has begun with 1 events" in said("redrive", "hook", "--type", "test.#", "--rate", "5", "--note", "mended")
    job = RedriveJob.objects.get()
    assert (job.rate, job.note, job.filter) == (5.0, "mended", {"type": "test.#"}) and "terminal" in job.actor
    assert "running" in said("jobs")
    assert "cancelled" in said("jobs", "cancel", str(job.pk))


def test_a_replay_takes_the_patterns_of_its_subscription_unless_said() -> None:
    hook(patterns=["test.#"])
    published("a")
    assert "1 events" in said("replay", "hook", "--stream", "a", "--dry-run")
    said("replay", "hook", "--types", "test.thing.*", "--again")
    assert RedriveJob.objects.get().filter == {"types": ["test.thing.*"]} and RedriveJob.objects.get().again


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["redrive", "nobody"], "nobody"),
        (["redrive", "hook"], "No letter"),
        (["redrive", "hook", "--type", "No Pattern"], "pattern"),
        (["replay", "hook", "--since", "yesterday"], "since"),
        (["replay", "mint"], "reads its broker"),
        (["jobs", "pause", "7"], "no job 7"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence(words: list[str], why: str) -> None:
    hook()
    hook("mint", kind="consumer")
    with pytest.raises(CommandError, match=why):
        said(*words)
