from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from missioncontrol import lock
from missioncontrol.launch import index, venv
from missioncontrol.launch.report import Report, Stop


def test_what_is_installed_is_left_alone_until_the_requirements_change(tmp_path: Path) -> None:
    folder, wanted, log = tmp_path / "venv", tmp_path / "requirements.txt", tmp_path / "log"
    wanted.write_text("# nothing yet\n")
    out = io.StringIO()
    venv.ensure(folder, [wanted], log, Report(out))
    assert (folder / "bin" / "python").exists()
    assert "virtual environment made" in out.getvalue()

    again = io.StringIO()
    venv.ensure(folder, [wanted], log, Report(again))
    assert again.getvalue() == ""

    wanted.write_text("# something else\n")
    venv.ensure(folder, [wanted], log, Report(again))
    assert "installed" in again.getvalue()
    assert "made" not in again.getvalue()

    # Its Python is gone: made anew.
    (folder / "bin" / "python").unlink()
    venv.ensure(folder, [wanted], log, Report(again))
    assert "virtual environment made" in again.getvalue()


def test_a_change_in_an_included_file_counts(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("a==1\n")
    (tmp_path / "dev.txt").write_text("-r base.txt\nb==1\n")
    before = venv._digest(tmp_path / "dev.txt")
    (tmp_path / "base.txt").write_text("a==2\n")
    assert venv._digest(tmp_path / "dev.txt") != before
    assert venv._count(tmp_path / "dev.txt") == 2


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "requirements.txt").touch()
    with pytest.raises(Stop, match=r"The virtual environment can't be made at .* set MC_VENV"):
        venv.ensure(
            tmp_path / "file" / "venv", [tmp_path / "requirements.txt"], tmp_path / "log", Report(io.StringIO())
        )


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["ERROR: No matching distribution found for x==1"], "No matching distribution found for x==1"),
        (["WARNING: Retrying (Retry(total=0)) NewConnectionError('…')", "ERROR: No matching"], "can't be reached"),
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"], "disk is full"),
        ([], "pip said nothing"),
    ],
)
def test_pips_words_become_one_sentence(lines: list[str], says: str) -> None:
    said = venv.explain(lines)
    assert says in said
    assert "\n" not in said


ROOT = Path(__file__).resolve().parents[3]
LOCKS = ("requirements.txt", "requirements-dev.txt", "benchmarks/requirements.txt", "missioncontrol/launch/uv.txt")


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[._]", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_once_with_its_hashes_and_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert blocks[0].startswith("# Written by `make lock`")
    for block in blocks[1:]:
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", block), block[:200]
    assert len(pins(text)) == len(blocks) - 1
    assert "://" not in text


def test_the_locks_hold_what_the_list_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, groups = project["project"]["dependencies"], project["dependency-groups"]
    wanted = {LOCKS[0]: run, LOCKS[1]: [*run, *groups["dev"]], LOCKS[2]: groups["bench"], LOCKS[3]: groups["uv"]}
    for name, listed in wanted.items():
        assert pins("\n".join(listed)).items() <= pins((ROOT / name).read_text()).items(), f"{name}: run make lock"
    base, dev = pins((ROOT / LOCKS[0]).read_text()), pins((ROOT / LOCKS[1]).read_text())
    assert base.items() <= dev.items()


def wheel(folder: Path) -> str:
    """A package of one file; its hash."""
    path = folder / "mc_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mc_probe.py", "WORD = 'installed'\n")
        archive.writestr("mc_probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mc-probe\nVersion: 1.0\n")
        archive.writestr("mc_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("mc_probe-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the uv of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    (folder / "bin" / "uv").symlink_to(Path(sys.prefix) / "bin" / "uv")
    return folder


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_does_not_have_the_hash_of_the_file_is_not_installed(
    environment: Path, tmp_path: Path, installer: str
) -> None:
    right, log, wanted = wheel(tmp_path), tmp_path / "log", tmp_path / "requirements.txt"
    log.touch()

    def install(line: str) -> bool:
        wanted.write_text(f"--no-index\n--find-links {tmp_path.as_uri()}\n{line}\n")
        report = Report(io.StringIO())
        try:
            # Under our own lock, as always: uv has one in the same folder.
            with venv._alone(environment, report):
                if installer == "uv":
                    return venv._with_uv(environment, wanted, log, report)
                venv._with_pip(environment, wanted, log, report)
        except Stop as stop:
            assert str(log) in str(stop)
            return False
        return True

    python = str(environment / "bin" / "python")
    assert not install("mc-probe==1.0"), "no hash at all"
    assert not install(f"mc-probe==1.0 --hash=sha256:{'0' * 64}")
    assert subprocess.run([python, "-c", "import mc_probe"], capture_output=True, check=False).returncode
    assert install(f"mc-probe==1.0 --hash=sha256:{right}")
    subprocess.run([python, "-c", "import mc_probe"], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "mc-probe"], check=True)


def test_uv_asks_where_pip_is_told_to() -> None:
    listed = (
        ":env:.index-url='https://own.example/simple'\n:env:.timeout='20'\nglobal.cert='/etc/ca.pem'\n"
        "global.index-url='https://other.example/simple'\ninstall.extra-index-url='https://a.example https://b.example'\n"
        "global.trusted-host='own.example'\nglobal.find-links='/srv/wheels'\nglobal.no-index='true'\nnonsense\n"
    )
    assert index.arguments(listed) == [
        *("--default-index", "https://own.example/simple"),
        *("--index", "https://a.example", "--index", "https://b.example"),
        *("--find-links", "/srv/wheels", "--allow-insecure-host", "own.example", "--cert", "/etc/ca.pem", "--no-index"),
    ]
    assert index.arguments("") == []


def test_the_condition_that_holds_everywhere_is_left_out_of_the_locks() -> None:
    always = lock.CONDITION
    text = f"a==1 ; {always} \\\nb==1 ; x == 'y' and {always} \\\nc==1 ; {always} and x == 'y' \\\n"
    assert lock.tidy(text) == "a==1 \\\nb==1 ; x == 'y' \\\nc==1 ; x == 'y' \\\n"


def test_this_python_is_new_enough() -> None:
    assert sys.hexversion >= 0x030B0000
