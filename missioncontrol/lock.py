"""``make lock``: from the list in pyproject.toml to requirements files that name every package, version and hash.

Both uv and pip install from these, and take nothing whose hash isn't there. What a file pins stays pinned as long as
the list allows; ``make lock c=--upgrade`` looks for newer ones. No file names an index: whoever installs has one.
"""

from __future__ import annotations

import subprocess
import sys

from services.kit.env import ROOT

FILES = {
    "requirements.txt": ("pyproject.toml",),
    "requirements-dev.txt": ("pyproject.toml", "--group", "dev"),
    "benchmarks/requirements.txt": ("--group", "bench"),
    "missioncontrol/launch/uv.txt": ("--group", "uv"),
}
OPTIONS = (
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"),
    *("--no-emit-index-url", "--no-emit-find-links"),
)
HEADER = "# Written by `make lock` from pyproject.toml: change it there.\n"
CONDITION = "platform_python_implementation == 'CPython'"
"""What uv notes at each package because we told it to look at no other Python."""


def main(options: list[str]) -> int:
    """Write all files; the exit code."""
    for name, chosen in FILES.items():
        path = ROOT / name
        argv = [sys.executable, "-m", "uv", "pip", "compile", *chosen, *OPTIONS, *options]
        done = subprocess.run([*argv, "--output-file", name], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
        path.write_text(HEADER + tidy(path.read_text().removeprefix(HEADER)))
    return 0


def tidy(text: str) -> str:
    """Without the condition that holds for every line."""
    for always in (f" ; {CONDITION} \\\n", f" and {CONDITION}", f"{CONDITION} and "):
        text = text.replace(always, " \\\n" if always.endswith("\n") else "")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
