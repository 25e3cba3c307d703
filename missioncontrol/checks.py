"""``make check``: what can be known without running the system: lint, format, types, import rules,
migrations, settings and the API's description. Each check is one command; all are run, then judged.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from missioncontrol.launch.layout import SECRETS
from services.kit.env import ROOT


@dataclass(frozen=True, slots=True)
class Check:
    """A name for people and the arguments after the interpreter."""

    name: str
    argv: tuple[str, ...]


# The longest first, so that two cores end together.
CHECKS = (
    Check("types", ("-m", "mypy")),
    Check("API description", ("manage.py", "spectacular", "--validate", "--fail-on-warn", "--file", os.devnull)),
    Check("migrations", ("manage.py", "makemigrations", "--check", "--dry-run")),
    Check("settings", ("manage.py", "check", "--fail-level", "WARNING")),
    Check("import rules", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_architecture.py")),
    Check("lint", ("-m", "ruff", "check", ".")),
    Check("format", ("-m", "ruff", "format", "--check", ".")),
)


def main(names: list[str]) -> int:
    """Run the named checks, or all; 1 when any failed."""
    chosen = [check for check in CHECKS if not names or check.name in names]
    with tempfile.TemporaryDirectory(prefix="mc-check-") as home, ThreadPoolExecutor(max_workers=2) as pool:
        fresh = {name.upper(): secrets.token_urlsafe(32) for name in SECRETS}
        env = os.environ | fresh | {"MC_HOME": home}
        env.pop("DATABASE_URL", None)
        results = list(pool.map(lambda check: run(check, env), chosen))
    failed = [name for name, code in results if code]
    print(f"FAILED: {', '.join(failed)}." if failed else f"All {len(results)} checks passed.")
    return 1 if failed else 0


def run(check: Check, env: dict[str, str]) -> tuple[str, int]:
    """Run one and print its verdict; its output too when it failed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *check.argv], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    verdict = "FAILED" if done.returncode else "ok"
    said = f"\n{done.stdout}{done.stderr}" if done.returncode else ""
    print(f"  {check.name:<16} {verdict}  ({time.monotonic() - began:.1f} s){said}", flush=True)
    return check.name, done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
