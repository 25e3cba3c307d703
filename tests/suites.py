"""``make test``: fetch what the tests need, run every suite against real engines, and say what could not run.

1. unit and contract tests on SQLite; 2. every test that uses the database again, on PostgreSQL;
3. wire tests that start just the processes they need; 4. one after another, browser tests and those
that need the whole system or stop its parts.
With arguments it is plain pytest: ``make test t="tests/unit/launch -k redis"``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from missioncontrol.launch import packages
from missioncontrol.launch.report import Report
from tests import machine, postgres, watch

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-q"]

PACKAGES = {
    "chromium": "browser",
    "maven": "kafka",
    "postgresql": "postgres",
    "rabbitmq-server": "rabbitmq",
    "redis-server": "redis",
}
"""Debian's package, and the marker of the tests that need it."""


def main(arguments: list[str]) -> int:
    """Run; non-zero when a test failed, or when in CI one could not run."""
    watch.begin()
    if arguments:
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, env=environment(), check=False).returncode
    began = time.monotonic()
    packages.install([package for package, marker in PACKAGES.items() if machine.lacks(marker)], Report())
    counts = Path(tempfile.mkstemp(prefix="mc-counts-")[1])
    env = environment() | {"MC_TEST_COUNTS": str(counts)}
    two = ["-n", "2", "-m", "not solo and not fleet and not browser"]
    parallel = [*two, "tests/unit", "tests/contract"]
    codes = {"unit and contract": pytest(parallel, env)}
    if machine.postgres():
        with postgres.cluster() as url:
            codes["database tests on PostgreSQL"] = pytest(["--orm", *parallel], env | {"DATABASE_URL": url})
    # By file: a file's tests share the processes that its fixtures start.
    codes["wire"] = pytest([*two, "--dist", "loadfile", "tests/wire", "tests/e2e"], env)
    codes["whole system and browser"] = pytest(["--alone", "tests"], env)
    return summary(codes, counts, time.monotonic() - began)


def environment() -> dict[str, str]:
    """The caller's, without what would point the tests at the caller's own Mission Control."""
    ours = ("MC_HOME", "MC_HOST", "DATABASE_URL", "REDIS_URL", "CLICKHOUSE_URL", "MC_PROCESSES")
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.endswith("_PORT")}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def pytest(arguments: list[str], env: dict[str, str]) -> int:
    """One run of pytest, its command shown first. No test collected is no failure."""
    print(f"\n== pytest {' '.join(arguments)}", flush=True)
    code = subprocess.run([*PYTEST, *arguments], cwd=ROOT, env=env, check=False).returncode
    return 0 if code == 5 else code


def summary(codes: dict[str, int], counts: Path, seconds: float) -> int:
    """The closing lines: what could not run by name, then the totals."""
    rows = [json.loads(line) for line in counts.read_text().splitlines()]
    counts.unlink()
    missed = {name: reason for row in rows for name, reason in row["missed"].items()}
    if not machine.postgres():
        missed["every database test, on PostgreSQL"] = machine.lacks("postgres")
    if missed:
        print("\nCould not run here:")
        for name, reason in sorted(missed.items()):
            print(f"  {name}: {reason}")
    total = {name: sum(row["counts"][name] for row in rows) for name in ("passed", "failed", "error")}
    broken = [name for name, code in codes.items() if code]
    strict = os.environ.get("CI", "").lower() in {"1", "true"}
    if missed and strict:
        broken.append("tests that could not run, which CI does not allow")
    print(
        f"\n{total['passed']} passed, {total['failed'] + total['error']} failed, "
        f"{len(missed)} could not run, in {seconds:.0f} s."
    )
    if broken:
        print(f"FAILED: {'; '.join(broken)}.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
