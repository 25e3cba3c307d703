"""The door: refuse a Python that is too old, in words that even Python 2 can say, then go in.

Only syntax and names that every Python has may stand here, in plain ASCII.
"""

import sys

if sys.hexversion < 0x030B0000:
    sys.stderr.write(
        "Mission Control needs Python 3.11 or newer; "
        + (sys.executable or "this")
        + " is Python "
        + sys.version.split()[0]
        + ". Choose another, such as: make run PYTHON=python3.12\n"
    )
    sys.exit(1)

from missioncontrol.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
