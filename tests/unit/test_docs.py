"""What the pages say that a program can check: their names, numbers and links are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from apps.dashboard import frames
from apps.telemetry.collector.buffer import Buffer
from apps.telemetry.collector.ingest import Ingest
from apps.telemetry.collector.report import statistics
from missioncontrol.fleet import MEMBERS
from missioncontrol.launch import settings as environment
from missioncontrol.launch.layout import FOLDERS as FOLDERS_OF_A_HOME
from missioncontrol.launch.processes import table

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [str(path.relative_to(ROOT)) for path in (*TOP, *sorted((ROOT / "docs").glob("*.md")), *DECISIONS)]
PROGRAMS = ("apps", "missioncontrol", "services")
FOLDERS = "apps|missioncontrol|services|tests|benchmarks"
FLEET = ("AEGIS", "COVENANT", "NEXUS", "MINT")

every_page = pytest.mark.parametrize("page", PAGES)


@cache
def read(page: str) -> str:
    return (ROOT / page).read_text()


@cache
def files() -> frozenset[str]:
    """Every file of the project, by its path and by each end of that."""
    folders = (*PROGRAMS, "tests", "docs", "static", "templates", "benchmarks")
    paths = chain(ROOT.iterdir(), *((ROOT / folder).rglob("*") for folder in folders))
    parts = (path.relative_to(ROOT).parts for path in paths)
    return frozenset("/".join(part[start:]) for part in parts for start in range(len(part)))


@cache
def code() -> dict[str, ast.Module]:
    """Our programs' syntax trees by path."""
    paths = chain(*(sorted((ROOT / folder).rglob("*.py")) for folder in PROGRAMS))
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths if "migrations" not in path.parts
    }


def test_a_page_that_the_code_names_is_there() -> None:
    wrong = [
        f"{path} names {name}"
        for path in code()
        for name in re.findall(r"docs/[\w/.-]+\.md", read(path))
        if not (ROOT / name).exists()
    ]
    assert wrong == []


@cache
def nodes() -> tuple[tuple[str, ast.AST], ...]:
    """Everything in them, each with its file."""
    return tuple((path, node) for path, tree in code().items() for node in ast.walk(tree))


@cache
def strings() -> frozenset[str]:
    """Every literal string of our programs."""
    return frozenset(
        node.value for _, node in nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def rows(page: str) -> Iterator[list[str]]:
    """The cells of a page's tables, row by row."""
    for line in read(page).splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def quoted(text: str) -> list[str]:
    """What stands between backticks on a line."""
    return re.findall(r"`([^`\n]+)`", text)


def anchors(page: Path) -> set[str]:
    """Where a page's headings are, as GitHub says it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- links and names -----------------------------------------------------------------------------


@every_page
def test_every_link_within_the_project_leads_somewhere(page: str) -> None:
    here, lost = ROOT / page, []
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        name, _, anchor = target.partition("#")
        found = (here.parent / name).resolve() if name else here
        if "://" not in target and not (found.exists() and (not anchor or anchor in anchors(found))):
            lost.append(target)
    assert not lost


def test_decisions_are_numbered_once_without_a_gap_and_as_their_files() -> None:
    heads = [re.match(r"# (\d+)[.:] ", path.read_text()) for path in DECISIONS]
    numbers = [int(head[1]) if head else 0 for head in heads]
    assert numbers == [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@every_page
def test_a_link_by_number_leads_to_the_decision_of_that_number(page: str) -> None:
    links = re.findall(r"\[(\d{4})\]\((?:\S*/)?(\d{4})-", read(page))
    assert all(said == meant for said, meant in links)
    assert {int(number) for number in re.findall(r"\bdecision (\d+)", read(page))} <= {*range(1, len(DECISIONS) + 1)}


@every_page
def test_every_file_and_module_that_a_page_names_is_there(page: str) -> None:
    lost = []
    for word in chain(*(span.split() for span in quoted(read(page)))):
        if re.fullmatch(rf"[\w/-]*\w\.(py|sql|md|txt|bin|toml|js|css|html)|({FOLDERS})(/\w+)+", word):
            known = word in files()
        elif match := re.fullmatch(rf"(({FOLDERS})(\.[a-z_]+)+)", word):
            module = match[1].replace(".", "/")
            # The last name may be something in the module.
            known = any(f"{name}{end}" in files() for name in (module, str(Path(module).parent)) for end in ("", ".py"))
        else:
            continue
        if not known:
            lost.append(word)
    assert not lost


@every_page
def test_every_class_that_a_page_names_is_in_the_code(page: str) -> None:
    classes = {node.name for _, node in nodes() if isinstance(node, ast.ClassDef)}
    assert set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", read(page))) <= classes


def test_the_table_of_processes_names_all_of_them() -> None:
    listed = [name for cells in rows("docs/architecture.md") if len(cells) == 4 for name in quoted(cells[0])]
    assert sorted(listed) == sorted(process.name for process in table(environment.read(), "valkey-server"))


def test_the_rooms_and_the_folders_of_a_home_are_all_named() -> None:
    page = read("docs/architecture.md")
    apps = {path.parent.name for path in (ROOT / "apps").glob("*/__init__.py")}
    assert apps == set(re.findall(r"^  (\w+)/ ", page, re.MULTILINE))
    kept = page.partition("## State and its bounds")[2]
    assert {f"{name}/" for name in FOLDERS_OF_A_HOME} <= set(quoted(kept))


# -- settings ------------------------------------------------------------------------------------

VARIABLE = re.compile(
    r"(MC|DJANGO|OTEL|CELERY|DATABASE|REDIS|CLICKHOUSE|AMQP|KAFKA|AEGIS|COVENANT|NEXUS|MINT)_[A-Z_]*[A-Z]"
)
AMONG_OURSELVES = {"DJANGO_SETTINGS_MODULE", "MC_LISTEN", "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"}
"""Our own processes set these, nobody else does."""
NEVER_ASKED = {"NEXUS_DATABASE_URL"}
"""nexus keeps no store."""
FOR_SDKS = {"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_PROTOCOL", "MC_TEST_FLEET"}
"""Pages name these for somebody else's program, and for the tests."""


@cache
def settings() -> frozenset[str]:
    """Every setting that stands in the code; ``f"MC_{service}_PORT"`` is one for each service of the fleet."""
    patterns = set()
    for _, node in nodes():
        if isinstance(node, ast.JoinedStr):
            patterns.add("".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values))
    patterns.discard("*_FILE")
    made = {pattern.replace("*", name) for pattern in patterns if pattern.count("*") == 1 for name in FLEET}
    named = {name for name in strings() | made if VARIABLE.fullmatch(name)} - AMONG_OURSELVES - NEVER_ASKED
    # A secret may stand in a file that another variable names.
    return frozenset(name for name in named if name.removesuffix("_FILE") == name or name[:-5] not in named)


def defaults() -> dict[str, float]:
    """Setting → its default, where that is a number written beside it."""
    found: dict[str, float] = dict(environment.PORTS)
    for _, node in nodes():
        match node:
            case ast.Call(args=[ast.Constant(str(name)), ast.Constant(int() | float() as value), *_]) if (
                VARIABLE.fullmatch(name) and not isinstance(value, bool)
            ):
                found[name] = value
    return found


def test_the_page_of_settings_lists_what_the_code_reads_and_nothing_else() -> None:
    listed = {name for cells in rows("docs/settings.md") for name in quoted(cells[0]) if VARIABLE.fullmatch(name)}
    assert listed ^ settings() == set()


@every_page
def test_a_page_names_no_setting_that_nothing_reads(page: str) -> None:
    words = chain(*(re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", span) for span in quoted(read(page))))
    named = {word.removesuffix("_FILE") for word in words if VARIABLE.fullmatch(word)} - FOR_SDKS
    assert named <= {setting.removesuffix("_FILE") for setting in settings()}


@pytest.mark.parametrize("page", ["README.md", "docs/settings.md"])
def test_a_setting_has_the_default_that_the_page_says(page: str) -> None:
    known, checked = defaults(), 0
    for cells in rows(page):
        names = [name for name in quoted(cells[0]) if name in known]
        numbers = re.fullmatch(r"\d+(, \d+)*", cells[1]) and cells[1].split(", ")
        if names and numbers and len(names) == len(numbers):
            assert [known[name] for name in names] == [float(number) for number in numbers], names
            checked += 1
    assert checked


# -- libraries -----------------------------------------------------------------------------------


def test_the_page_of_libraries_names_what_is_pinned() -> None:
    lines = "\n".join(read(name) for name in ("requirements.txt", "requirements-dev.txt"))
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", lines, re.MULTILINE)}
    cells = [row[0] for row in rows("docs/decisions/0011-libraries.md")][1:]
    # "-exporter-…" goes on with the name before it.
    names = {word.lower() for cell in cells for word in cell.split(", ") if not word.startswith("-")}
    assert names and {name.split()[0] for name in names} <= pinned


# -- figures -------------------------------------------------------------------------------------

READERS = "apps/dashboard/losses.py"
"""Reads metrics by their names and makes none."""


def made_metrics() -> set[str]:
    """Every metric that our programs report."""
    made = set()
    for path, node in nodes():
        if path == READERS:
            continue
        # An attribute has two parts (mc.service), a metric of ours three.
        if isinstance(node, ast.Constant) and re.fullmatch(r"mc(\.[a-z_]+){2,}", str(node.value)):
            made.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            if node.func.attr.startswith("create_") and re.fullmatch(r"[a-z_.]+\.[a-z_.]+", str(name)):
                made.add(name)
    return made | {"http.server.request.duration"}


def test_the_page_of_metrics_lists_what_is_reported_and_nothing_else() -> None:
    listed = {name for cells in rows("docs/metrics.md") for name in quoted(cells[0]) if "." in name}
    assert listed ^ made_metrics() == set()


def test_losses_are_read_from_metrics_that_are_made() -> None:
    read_there = {
        node.value
        for path, node in nodes()
        if path == READERS and isinstance(node, ast.Constant) and str(node.value).startswith("mc.")
    }
    assert read_there <= made_metrics()


def test_the_page_of_metrics_lists_the_collectors_figures() -> None:
    async def never(table: str, body: bytes, token: str) -> None:
        raise AssertionError

    figures = statistics(Ingest(Buffer(never), unpacked_limit=1, patience=1.0), 0)
    listed = {name for cells in rows("docs/metrics.md") for name in quoted(cells[0]) if "." not in name}
    assert listed ^ set(figures) == set()


# -- words of the wire ---------------------------------------------------------------------------


def test_the_page_of_access_lists_every_refusal_of_a_caller() -> None:
    refusals = set()
    for path, node in nodes():
        match node:
            case ast.Call(func=ast.Name("Denied"), args=[ast.Constant(str(word)), *_]):
                refusals.add(word)
            case ast.Call(func=ast.Name("denied"), args=[ast.Constant(str(word)), *_]) if path.endswith("core/auth.py"):
                refusals.add(f"token_{word}")
    listed = [name for cells in rows("docs/access.md") if cells[0][:1] == "4" for name in quoted(cells[0])]
    assert set(listed) ^ refusals == set()


def test_the_page_of_access_says_who_may_call_the_reference_fleet() -> None:
    listed = {}
    for cells in rows("docs/access.md"):
        if len(cells) == 3 and cells[1].startswith("`/"):
            methods = re.findall(r"[A-Z]{3,}", cells[1])
            allowed = re.findall(r"\b(demo|nexus)\b", cells[2])
            listed[quoted(cells[0])[0]] = (methods, allowed, "public" in cells[2])
    seeded = {
        opening.name: ([*opening.methods], [*opening.allow], not opening.allow)
        for member in MEMBERS
        for opening in member.openings
    }
    assert listed == seeded


def test_every_failure_on_the_page_of_the_api_is_one_that_the_code_says() -> None:
    listed = {name for cells in rows("docs/api.md") if cells[0].isdigit() for name in quoted(cells[1])}
    assert listed and listed <= strings()


def test_the_page_of_the_live_protocol_lists_its_topics_and_close_codes() -> None:
    page = "docs/live-protocol.md"
    codes = {int(cells[0]) for cells in rows(page) if cells[0].isdigit()}
    parts = {name for cells in rows(page) if len(cells) == 2 for name in quoted(cells[0]) if name.isalpha()}
    ours = (frames.MALFORMED, frames.NOT_ALLOWED, frames.UNKNOWN_TOPIC, frames.SILENT, frames.WRONG_ACK)
    assert codes == {*ours, frames.TOO_CHATTY, frames.RESTARTING, frames.FULL, 1009}
    assert parts == frames.TOPICS | frames.ALWAYS
