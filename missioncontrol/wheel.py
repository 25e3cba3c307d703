"""``make wheel``: the services' kit as a package that installs alone, in ``build/`` (services/kit/pyproject.toml)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from services.kit.env import ROOT

KIT = ROOT / "services" / "kit"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def build(folder: Path) -> Path:
    """The wheel's path, in ``folder``; CalledProcessError, whose output says why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        # What a build leaves beside the sources would be found by every other tool.
        copy = shutil.copytree(KIT, Path(aside) / "kit", ignore=shutil.ignore_patterns("__pycache__"))
        made = Path(aside) / "made"
        made.mkdir()
        argv = [sys.executable, "-c", BUILD, str(made)]
        subprocess.run(argv, cwd=copy, check=True, capture_output=True, text=True)
        (wheel,) = made.glob("*.whl")
        return Path(shutil.copy(wheel, folder / wheel.name))


def main() -> int:
    """Build it, and say where it is."""
    try:
        wheel = build(ROOT / "build")
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"The kit could not be built:\n{error.stdout}{error.stderr}")
        return 1
    print(f"pip install '{wheel}[redis]'    # or [rabbitmq], [kafka], [postgresql], [service]; see docs/kit.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
