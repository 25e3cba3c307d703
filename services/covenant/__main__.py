"""``python -m services.covenant``: serve the ledger."""

from __future__ import annotations

from services.covenant.app import build
from services.covenant.settings import read
from services.kit.app import run

if __name__ == "__main__":
    run(build, read)
