"""``python -m services.nexus``: serve intents."""

from __future__ import annotations

from services.kit.app import run
from services.nexus.app import build
from services.nexus.settings import read

if __name__ == "__main__":
    run(build, read)
