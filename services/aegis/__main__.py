"""``python -m services.aegis``: serve tokens."""

from __future__ import annotations

from services.aegis.app import build
from services.aegis.settings import read
from services.kit.app import run

if __name__ == "__main__":
    run(build, read)
