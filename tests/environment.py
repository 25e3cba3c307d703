"""Loaded by pytest before Django's settings: a home of its own for every test run, with its own secrets."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from missioncontrol.launch.layout import SECRETS
from tests import watch

watch.begin()

if "MC_HOME" not in os.environ:
    _home = tempfile.mkdtemp(prefix="mc-test-")
    os.environ["MC_HOME"] = _home
    atexit.register(shutil.rmtree, _home, ignore_errors=True)

for _name in SECRETS:
    os.environ.setdefault(_name.upper(), secrets.token_urlsafe(32))

# The static files' middleware wants its folder, which a start of the whole system would have filled.
Path(os.environ["MC_HOME"], "static").mkdir(parents=True, exist_ok=True)
