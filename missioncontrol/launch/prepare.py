"""Bring the database, the static files and the seeded fleet up to date, in one Django process.

Runs in the virtual environment. Each step is idempotent; the launcher skips all of them when nothing
they depend on has changed (``launch.stamp``).
"""

from __future__ import annotations

import os

import django
from django.core.management import call_command

STEPS: tuple[tuple[str, dict[str, object]], ...] = (
    ("migrate", {"interactive": False, "verbosity": 0}),
    ("collectstatic", {"interactive": False, "verbosity": 0}),
    # Before the seed, whose events they are about.
    ("schemas", {}),
    ("seed", {}),
)


def main() -> None:
    """Run each step, naming it first for the launcher, which reads the last name when one fails."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")
    django.setup()
    for name, options in STEPS:
        print(f"step: {name}", flush=True)
        call_command(name, **options)


if __name__ == "__main__":
    main()
