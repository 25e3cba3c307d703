"""``python -m tests.chaos``: see the package. Exit status 1 when a promise was broken."""

from __future__ import annotations

import argparse
import sys

from tests import machine, watch
from tests.chaos.run import BROKERS, Plan, run


def main() -> int:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="over all brokers (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=6, help="of each part (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule (default: %(default)s)")
    parser.add_argument("--brokers", default=",".join(BROKERS), help="which (default: %(default)s)")
    parser.add_argument("--sqlite", action="store_true", help="databases that are files, and are not killed")
    given = parser.parse_args()
    brokers = given.brokers.split(",")
    lacking = [lack for name in (*brokers, *([] if given.sqlite else ["postgres"])) if (lack := machine.lacks(name))]
    if lacking:
        print("\n".join(lacking), file=sys.stderr)
        return 2
    watch.begin()
    report = run(Plan(given.events, given.kills, given.seed, brokers, on_postgres=not given.sqlite, say=_say))
    print(report.table(), flush=True)
    return 0 if report.clean else 1


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
