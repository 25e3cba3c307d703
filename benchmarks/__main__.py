"""``python -m benchmarks [P1 P2 P3 P6 P8] [--quick]``: run them, print the table.

Exit code 1 when a run was falsified, 2 when a figure misses what it must reach (--quick measures nothing, so it misses
nothing).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks.report import Falsified, Figure, table

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run what was asked for; everything there is when nothing was."""
    known = sorted(path.stem.upper() for path in HERE.glob("p[0-9]*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", type=str.upper, metavar="P", help=f"of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="short runs: a smoke test, not a measurement")
    given = parser.parse_args()
    unknown = [name for name in given.which if name not in known]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    if given.quick:
        os.environ["MC_BENCH_QUICK"] = "1"
    figures: list[Figure] = []
    falsified: list[str] = []
    for name in given.which or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            figures += importlib.import_module(f"benchmarks.{name.lower()}").run()
        except Falsified as error:
            falsified.append(f"{name} is FALSIFIED: {error}")
            print(falsified[-1], file=sys.stderr, flush=True)
    if figures:
        print(table(figures))
    for line in falsified:
        print(line)
    if falsified:
        return 1
    return 2 if any(one.verdict == "MISSED" for one in figures) and not given.quick else 0


if __name__ == "__main__":
    sys.exit(main())
