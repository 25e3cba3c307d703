"""The virtual environment: made once, filled from pinned requirements, and left alone while these stay the same.

Owns the stamp that says which requirements are installed and the lock that keeps two runs from
installing at once. Knows nothing of what the packages are for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from missioncontrol.launch import index
from missioncontrol.launch.report import Report, Stop

_OWNED = ("bin", "lib", "lib64", "include", "share", "etc", "pyvenv.cfg")
"""What ``venv`` and pip write: removed when a broken environment is made anew, while our lock stays."""

UV = Path(__file__).with_name("uv.txt")
"""The uv that installs all others, by version and hash."""
LOCK = ".installing"
"""One run installs at a time. ``.lock`` is uv's own: it would wait five minutes for us."""
PIP = ("--require-hashes", "--no-input", "--progress-bar", "off", "--disable-pip-version-check")
"""Nothing is installed whose hash isn't in the file."""

_UNREACHABLE = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "Temporary failure in name resolution",
    "Network is unreachable",
)


def ensure(venv: Path, requirements: list[Path], log: Path, report: Report) -> None:
    """Make ``venv`` hold every file of ``requirements``; a few milliseconds when it already does.

    Raises Stop with the reason in a sentence and the place of pip's own words (``log``).
    """
    wanted = {path: _digest(path) for path in requirements}
    if all(_stamp(venv, path) == digest for path, digest in wanted.items()) and _alive(venv):
        return
    with _alone(venv, report):
        missing = [path for path, digest in wanted.items() if _stamp(venv, path) != digest]
        if not _alive(venv):
            _create(venv, log, report)
            missing = requirements
        for path in missing:
            _install(venv, path, log, report)
            _write_stamp(venv, path, wanted[path])


def _digest(path: Path) -> str:
    """Of a requirements file and those it includes."""
    text = path.read_text()
    parts = [text, sys.version.split()[0]]
    parts += [_digest(path.parent / name) for name in re.findall(r"^-r\s+(\S+)", text, re.MULTILINE)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _stamp_path(venv: Path, requirements: Path) -> Path:
    return venv / f".installed-{requirements.parent.name}-{requirements.stem}"


def _stamp(venv: Path, requirements: Path) -> str:
    try:
        return _stamp_path(venv, requirements).read_text()
    except OSError:
        return ""


def _write_stamp(venv: Path, requirements: Path, digest: str) -> None:
    path = _stamp_path(venv, requirements)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(digest)
    aside.replace(path)


def _alive(venv: Path) -> bool:
    """Is the interpreter there? A dangling link means that the Python it was made from is gone."""
    return (venv / "bin" / "python").exists()


@contextmanager
def _alone(venv: Path, report: Report) -> Iterator[None]:
    try:
        venv.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(venv / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Stop(
            f"The virtual environment can't be made at {venv} ({(error.strerror or '').lower()}): "
            "set MC_VENV to a folder that can be written."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.done(f"waiting: another run is installing into {venv}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(venv: Path, log: Path, report: Report) -> None:
    for name in _OWNED:
        path = venv / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for stamp in venv.glob(".installed-*"):
        stamp.unlink()
    report.note(f"making a virtual environment with Python {sys.version.split()[0]}")
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    log.write_text(made.stdout + made.stderr)
    if made.returncode:
        shutil.rmtree(venv / "bin", ignore_errors=True)
        raise Stop(
            f"Python {sys.version.split()[0]} could not make a virtual environment: install its venv package "
            f"(Debian and Ubuntu: apt-get install python3-venv). Its own words are in {log}."
        )
    report.done(f"virtual environment made at {venv}")


def _install(venv: Path, requirements: Path, log: Path, report: Report) -> None:
    """By uv, which takes a tenth of the time; by pip where uv can't be had or doesn't manage."""
    total = _count(requirements)
    if not (total and _get_uv(venv, log, report) and _with_uv(venv, requirements, log, report)):
        _with_pip(venv, requirements, log, report)
    report.done(f"{requirements.name}: {total} packages installed")


def _get_uv(venv: Path, log: Path, report: Report) -> bool:
    """Have the pinned uv in ``venv``; False where there is none for this machine."""
    pinned = UV.read_text()
    if _stamp(venv, UV) == _digest(UV):
        return True
    report.note(f"fetching {pinned.split('==')[0].split()[-1]}, which installs the rest", every=0)
    argv = [str(venv / "bin" / "python"), "-m", "pip", "install", *PIP, "--only-binary", ":all:", "-r", str(UV)]
    done = subprocess.run(argv, env=_pip_env(), capture_output=True, text=True, check=False)
    _append(log, done.stdout + done.stderr)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        if _unreachable(lines) or _disk_full(lines):
            # pip would say the same of every other package, after as long a wait.
            raise Stop(f"{explain(lines)} pip's own words are in {log}.")
        return False
    _write_stamp(venv, UV, _digest(UV))
    return True


def _with_uv(venv: Path, requirements: Path, log: Path, report: Report) -> bool:
    python = str(venv / "bin" / "python")
    asked = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    # Which of several indexes a file comes from makes no difference where its hash is known.
    argv = [str(venv / "bin" / "uv"), "pip", "install", "--python", python, "--index-strategy", "unsafe-best-match"]
    argv += ["--require-hashes", "--compile-bytecode", "--no-progress", "--no-config", "--system-certs"]
    argv += [*index.arguments(asked.stdout), "-r", str(requirements)]
    env = os.environ | {"UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "30")}
    report.note(f"installing {requirements.name}: {_count(requirements)} packages", every=0)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    _append(log, done.stdout + done.stderr)
    if done.returncode:
        report.note("uv could not; pip tries", every=0)
    return done.returncode == 0


def _with_pip(venv: Path, requirements: Path, log: Path, report: Report) -> None:
    total = _count(requirements)
    argv = [str(venv / "bin" / "python"), "-m", "pip", "install", *PIP, "--log", str(log), "-r", str(requirements)]
    seen, last = 0, deque[str](maxlen=200)
    report.note(f"installing {requirements.name}: {total} packages", every=0)
    with subprocess.Popen(argv, env=_pip_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        try:
            for line in pip.stdout or ():
                last.append(line.rstrip())
                if line.startswith(("Collecting ", "Requirement already satisfied")):
                    seen = min(seen + 1, total)
                    report.note(f"installing {requirements.name}: {seen} of {total} packages fetched")
                elif line.startswith("Installing collected packages"):
                    report.note(f"installing {requirements.name}: unpacking {total} packages", every=0)
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise Stop(f"{explain(list(last), _end(log))} pip's own words are in {log}.")


def _pip_env() -> dict[str, str]:
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    # pip's own patience is for people who watch; one who set it keeps it.
    for name, value in (("PIP_RETRIES", "3"), ("PIP_DEFAULT_TIMEOUT", "20")):
        if "PIP_TIMEOUT" not in env:
            env.setdefault(name, value)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def _append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def _count(requirements: Path) -> int:
    text = requirements.read_text()
    own = sum(1 for line in text.splitlines() if line.strip() and not line.startswith(("#", "-", " ")))
    return own + sum(_count(requirements.parent / name) for name in re.findall(r"^-r\s+(\S+)", text, re.MULTILINE))


def _end(log: Path) -> str:
    """The end of pip's log, which tells what pip keeps quiet about on the terminal."""
    try:
        return log.read_text(errors="replace")[-65_536:]
    except OSError:
        return ""


def _disk_full(lines: Iterable[str]) -> bool:
    return any("No space left on device" in line for line in lines)


def _unreachable(lines: Iterable[str]) -> bool:
    return any(word in line for line in lines for word in _UNREACHABLE)


def explain(lines: list[str], log: str = "") -> str:
    """pip's last lines, and the end of its log, as one sentence: what failed and what to do."""
    if _disk_full(lines):
        return "The packages could not be installed because the disk is full: make room and run again."
    errors = [line.removeprefix("ERROR: ").strip() for line in lines if line.startswith("ERROR:")]
    if _unreachable((*lines, log)):
        return (
            "The packages could not be fetched because the package index can't be reached: "
            "check the network, or set PIP_INDEX_URL to an index that answers."
        )
    reason = errors[0] if errors else (lines[-1] if lines else "pip said nothing")
    return f"The packages could not be installed ({reason[:200].rstrip('.')})."
