"""The kit as a package of its own: what it says that it needs is what it imports, and what it is tested with."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from services.kit.env import ROOT
from services.kit.settings import VERSION

KIT = ROOT / "services" / "kit"
PROJECT = tomllib.loads((KIT / "pyproject.toml").read_text())
NEEDS: list[str] = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
OWNERS = packages_distributions()


def plain(name: str) -> str:
    return re.split(r"[\[<>=]", name)[0].lower().replace("_", "-")


def imported(path: Path) -> set[str]:
    """The distributions that a file takes modules from."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            modules.add(node.module)
    found = set()
    for module in modules:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top == "opentelemetry":
            part = module.split(".")[1:2]
            found.add(
                {
                    "sdk": "opentelemetry-sdk",
                    "exporter": "opentelemetry-exporter-otlp-proto-http",
                    "instrumentation": "opentelemetry-instrumentation-aiohttp-client",
                }.get("".join(part), "opentelemetry-api")
            )
        else:
            found.add(plain(OWNERS[top][0]))
    return found


def test_all_that_it_imports_is_asked_for_and_nothing_else() -> None:
    used = set().union(*(imported(path) for path in KIT.rglob("*.py")))
    said = {plain(one) for one in [*NEEDS, *(one for extra in EXTRAS.values() for one in extra)]}
    # Found by name and not by import: what uvicorn and SQLAlchemy are told to take.
    assert said - {"uvloop", "httptools", "psycopg"} == used


def test_brokers_are_met_with_their_own_driver_alone() -> None:
    """What every program imports needs no extra; what one broker's part imports, that broker's."""
    core = {plain(one) for one in NEEDS}
    parts = {"redis": "redis_*.py", "rabbitmq": "rabbit*.py", "kafka": "kafka*.py"}
    apart: set[Path] = set()
    for extra, pattern in parts.items():
        files = set((KIT / "events" / "transport").glob(pattern))
        apart |= files
        needed = set().union(*map(imported, files))
        assert files and needed <= core | {plain(one) for one in EXTRAS[extra]}
    for path in set((KIT / "events").rglob("*.py")) - apart:
        assert imported(path) <= core, path
    for name in ("outbox", "inbox", "store", "broker", "settings", "env", "checks", "problem"):
        assert imported(KIT / f"{name}.py") <= core, name


def test_it_asks_for_what_it_is_tested_with() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    pins = {name.lower(): version for name, version in pins.items()}
    for one in [*NEEDS, *(one for extra in EXTRAS.values() for one in extra)]:
        assert one.split(">=")[1] == pins[plain(one)], one


def test_the_parts_and_the_version_are_those_of_the_sources() -> None:
    folders = {path.parent.relative_to(KIT) for path in KIT.rglob("__init__.py")}
    names = {".".join(["missioncontrol_kit", *folder.parts]) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names
    assert PROJECT["project"]["version"] == VERSION
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert PROJECT["build-system"]["requires"][0] in root["dependency-groups"]["dev"]


def test_the_guides_program_is_as_short_as_it_says() -> None:
    guide = (ROOT / "docs" / "kit.md").read_text()
    program = guide.partition("```python\n")[2].partition("```")[0]
    lines = [line for line in program.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    assert len(lines) <= 30
