"""The launcher's commands: ``run``, ``ctl`` and ``setup``. Every failure is one sentence and a non-zero exit."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

from apps.gateway.plane import handover
from missioncontrol.launch import layout, packages, venv
from missioncontrol.launch import settings as environment
from missioncontrol.launch.report import Report, Stop
from missioncontrol.launch.run import run
from missioncontrol.launch.settings import Settings

RENEW_SECONDS = 60.0
"""For the gateway's next workers to serve."""


def main(arguments: list[str]) -> int:
    """Parse, do, and answer with the exit code."""
    parser = argparse.ArgumentParser(prog="missioncontrol.launch", description="Run Mission Control on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="set up, start everything in the foreground, stop on Ctrl-C")
    ctl = commands.add_parser("ctl", help="ask or tell the running system")
    ctl.add_argument("words", nargs=argparse.REMAINDER, help="status, stop X, start X, restart X, pid X, tail X")
    setup = commands.add_parser("setup", help="install what tests, checks or benchmarks need, then run a module")
    setup.add_argument("--dev", action="store_true")
    setup.add_argument("--bench", action="store_true")
    setup.add_argument("--then", nargs=argparse.REMAINDER, default=[], metavar="MODULE")
    given = parser.parse_args(arguments)
    report = Report()
    try:
        settings = environment.read()
        if given.command == "run":
            return run(settings, report)
        if given.command == "ctl":
            return control(settings, given.words or ["status"])
        return install(settings, given.dev, given.bench, given.then, report)
    except Stop as stop:
        report.end_line()
        print(f"Mission Control: {stop}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        report.end_line()
        where = f" at {error.filename}" if error.filename else ""
        print(f"Mission Control: the disk is full{where}: make room and run again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def control(settings: Settings, words: list[str]) -> int:
    """Pass ``words`` to supervisorctl of the Mission Control that runs in this home."""
    config = layout.config_path(settings.home)
    if not (config.exists() and layout.running(settings.home)):
        raise Stop(f"nothing runs in {settings.home}: start it with make run, or say which one with MC_HOME.")
    supervisorctl = [settings.python, "-m", "supervisor.supervisorctl", "-c", str(config)]
    if words == ["restart", "gateway"] and (code := renew(settings, supervisorctl)) is not None:
        return code
    code = subprocess.run([*supervisorctl, *words], check=False).returncode
    # supervisorctl answers 3 to ``status`` when something is stopped, which is an answer and no failure.
    return 0 if words[0] == "status" and code == 3 else code


def renew(settings: Settings, supervisorctl: list[str]) -> int | None:
    """Let the gateway begin anew without refusing anybody; the exit code, or None when it doesn't run."""
    port = layout.read_addresses(settings.home).get("MC_GATEWAY_PORT", 0)
    lock = settings.home / "gateway" / f"parent-{port}.lock"
    before = handover.word(lock)
    done = subprocess.run([*supervisorctl, "signal", "USR2", "gateway"], capture_output=True, check=False)
    if done.returncode or not before:
        return None
    deadline = time.monotonic() + RENEW_SECONDS
    while handover.word(lock) in {before, ""}:
        if time.monotonic() > deadline:
            log = settings.home / "logs" / "gateway.log"
            raise Stop(
                f"the gateway did not begin anew within {RENEW_SECONDS:.0f} s and serves on as it was: see {log}."
            )
        time.sleep(0.1)
    print("gateway: begun anew; requests under way end with the old workers")
    return 0


def install(settings: Settings, dev: bool, bench: bool, then: list[str], report: Report) -> int:
    """Install the wanted requirements; then become ``python -m MODULE ARGUMENTS`` when one is named."""
    root = settings.root
    # Those of development include those of running.
    wanted = [root / "requirements-dev.txt"] if dev else [root / "requirements.txt"]
    if bench:
        wanted.append(root / "benchmarks" / "requirements.txt")
    log = root / "build" / "install.log"
    try:
        log.parent.mkdir(exist_ok=True)
    except OSError:
        log = Path(os.devnull)
    venv.ensure(settings.venv, wanted, log, report)
    if bench:
        packages.install(packages.lacking(packages.BENCH), report)
    if not then:
        return 0
    sys.stdout.flush()
    os.chdir(root)
    env = dict(os.environ)
    env["PATH"] = f"{settings.venv / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    argv = [settings.python, "-m", *then]
    return os.execve(settings.python, argv, env)  # noqa: S606 - no shell is wanted
