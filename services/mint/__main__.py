"""``python -m services.mint``: serve balances."""

from __future__ import annotations

from services.kit.app import run
from services.mint.app import build
from services.mint.settings import read

if __name__ == "__main__":
    run(build, read)
