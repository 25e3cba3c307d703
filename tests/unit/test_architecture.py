"""The rules of DESIGN: who may import whom. Read from the syntax tree, so a hidden import counts too."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each app may import the apps in its row, and nothing else of ours. Siblings (gateway, telemetry,
# health) meet through events, Redis names in apps.lib.wire, or HTTP.
MAY_IMPORT = {
    "lib": set(),
    "events": {"lib"},
    "registry": {"lib", "events"},
    "people": {"lib", "registry"},
    "gateway": {"lib", "events", "registry"},
    "telemetry": {"lib", "events", "registry"},
    "health": {"lib", "events", "registry"},
    "dashboard": {"lib", "events", "registry", "people", "gateway", "telemetry", "health"},
}

# The ground floor: what of the kit everybody may build on, because it needs no framework.
GROUND = (
    *("services.kit.env", "services.kit.events", "services.kit.problem"),
    *(
        "services.kit.files",
        "services.kit.proof",
        "services.kit.seal",
        "services.kit.signature",
        "services.kit.together",
    ),
)
FRAMEWORKS = {
    *("django", "rest_framework", "celery", "channels", "daphne", "twisted"),
    *("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "aiohttp", "sqlalchemy"),
}
OF_THE_DATABASE = {"django", "rest_framework", "celery", "channels", "fastapi", "sqlalchemy"}

# The launcher reads these before anything is installed.
BEFORE_INSTALLATION = ("services/kit/env.py",)

# The data plane and the collector serve with no database: nothing they load may reach the ORM.
WITHOUT_ORM = ("apps/gateway/core", "apps/gateway/plane", "apps/telemetry/collector", "apps/telemetry/engine")

# Pure files: no I/O, no clock of their own. ``now`` is an argument.
PURE = (
    "apps/gateway/core",
    "apps/health/core.py",
    "apps/telemetry/collector/decode.py",
    "apps/telemetry/faults.py",
    "apps/dashboard/frames.py",
    "apps/dashboard/state.py",
    "apps/dashboard/judge",
    "apps/dashboard/events/document.py",
    "apps/dashboard/events/flow.py",
    "apps/dashboard/events/hops.py",
    "apps/dashboard/events/links.py",
    "services/kit/problem.py",
    "services/kit/events/cloudevent.py",
    "services/kit/events/patterns.py",
    "services/kit/events/retry.py",
    "services/kit/events/routing.py",
    "services/kit/events/lanes.py",
    "services/kit/events/gaps.py",
    "services/kit/events/outbox.py",
    "services/kit/events/schema.py",
    "apps/events/schemas/asyncapi.py",
    "apps/events/schemas/compat.py",
    "apps/events/boundary.py",
    "apps/events/letters/core.py",
    "apps/events/subscriptions/condition.py",
    "apps/events/subscriptions/core.py",
    "apps/events/subscriptions/matching.py",
    "apps/events/subscriptions/signature.py",
    "apps/events/letters/pace.py",
    "apps/events/letters/reports.py",
    "apps/events/upcast.py",
)
IMPURE_MODULES = {"asyncio", "socket", "time", "redis", "django", "threading", "subprocess", "aiohttp", "random"}


def modules(folder: str) -> Iterator[Path]:
    yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if "migrations" not in path.parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module or "") if part)
            yield name, node.lineno
            yield from ((f"{name}.{alias.name}", node.lineno) for alias in node.names)


def reached(paths: list[Path]) -> Iterator[tuple[Path, str, int]]:
    """Every import of ``paths`` and of what of ours they load, packages' own files included."""
    queue, seen = list(paths), set()
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        queue += [parent / "__init__.py" for parent in path.parents if ROOT in parent.parents]
        for name, line in imports(path):
            yield path, name, line
            if top(name) in {"apps", "missioncontrol", "services"}:
                base = ROOT / name.replace(".", "/")
                queue += [found for found in (base.with_suffix(".py"), base / "__init__.py") if found.exists()]


def beneath(places: tuple[str, ...]) -> list[Path]:
    """The modules at these dotted names or in these folders; each must be there."""
    found = []
    for place in places:
        path = ROOT / place.replace(".", "/")
        here = list(modules(str(path.relative_to(ROOT)))) if path.is_dir() else [path.with_suffix(".py")]
        assert here and all(one.exists() for one in here), f"{place} holds no code: mend this list"
        found += here
    return found


def top(name: str, depth: int = 1) -> str:
    return ".".join(name.split(".")[:depth])


def on_the_ground(name: str) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in GROUND)


def test_the_rules_name_every_app_and_no_other() -> None:
    assert set(MAY_IMPORT) == {path.parent.name for path in (ROOT / "apps").glob("*/__init__.py")}


@pytest.mark.parametrize("app", sorted(MAY_IMPORT))
def test_an_app_imports_only_what_lies_below_it(app: str) -> None:
    wrong = []
    for path in modules(f"apps/{app}"):
        for name, line in imports(path):
            if top(name) == "missioncontrol" or (top(name) == "services" and not on_the_ground(name)):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            if top(name) == "apps" and name.count(".") >= 1:
                other = name.split(".")[1]
                if other != app and other not in MAY_IMPORT[app]:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("app", sorted(MAY_IMPORT))
def test_the_modules_of_an_app_import_one_way(app: str) -> None:
    """An import for types only counts too: whoever reads the one file still has to know the other."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules(f"apps/{app}")}
    graph = {name: {other for other, _ in imports(path)} & paths.keys() for name, path in paths.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_services_import_only_the_kit() -> None:
    wrong = []
    for path in modules("services"):
        own = path.relative_to(ROOT).parts[1]
        for name, line in imports(path):
            if top(name) in {"apps", "missioncontrol", "django"}:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            if top(name) == "services" and name.count(".") >= 1 and name.split(".")[1] not in {"kit", own}:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_kit_imports_nothing_of_ours_and_within_itself_only_relatively() -> None:
    """So that it can be installed on its own, under whatever name."""
    wrong = []
    for path in modules("services/kit"):
        package = path.relative_to(ROOT).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # ``from ..`` no further up than the kit itself.
                names = [node.module or ""] if node.level == 0 else ["services"] * (node.level >= len(package))
            else:
                continue
            if any(top(name) in {"apps", "missioncontrol", "services", "django"} for name in names):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {', '.join(names)}")
    assert not wrong, "\n".join(wrong)


def test_the_ground_floor_needs_no_framework() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, name, line in reached(beneath(GROUND))
        if top(name) in FRAMEWORKS
    ]
    assert not wrong, "\n".join(wrong)


def test_what_the_launcher_reads_first_is_of_the_standard_library_alone() -> None:
    paths = [ROOT / place for place in BEFORE_INSTALLATION]
    ours = sys.stdlib_module_names | {"services"}
    wrong = [name for _, name, _ in reached(paths) if top(name) not in ours]
    assert not wrong, wrong


@pytest.mark.parametrize("folder", WITHOUT_ORM)
def test_the_data_plane_and_the_collector_never_reach_a_framework_of_the_database(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, name, line in reached(beneath((folder,)))
        if top(name) in OF_THE_DATABASE
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("place", PURE)
def test_pure_files_do_no_input_or_output_and_ask_no_clock(place: str) -> None:
    paths = [ROOT / place] if place.endswith(".py") else list(modules(place))
    assert paths and all(path.exists() for path in paths), f"{place} is gone: mend this list"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imports(path)
        if top(name) in IMPURE_MODULES or name in {"apps.lib.clock", "apps.lib.aio"}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_hides_in_a_function_of_the_apps() -> None:
    wrong = []
    for folder in ("apps", "services", "missioncontrol"):
        for path in modules(folder):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    wrong += [
                        f"{path.relative_to(ROOT)}:{inner.lineno}"
                        for inner in ast.walk(node)
                        if isinstance(inner, ast.Import | ast.ImportFrom) and not _ready(node)
                    ]
    assert not wrong, "\n".join(wrong)


def _ready(node: ast.AST) -> bool:
    """Django's AppConfig.ready is where an app may import its own late parts."""
    return getattr(node, "name", "") == "ready"
