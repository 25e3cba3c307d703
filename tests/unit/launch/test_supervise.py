from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from supervisor.options import ServerOptions

from missioncontrol.launch import supervise
from missioncontrol.launch.processes import Ping, Process
from missioncontrol.launch.settings import PORTS, Settings
from tests.waiting import until


def settings(home: Path) -> Settings:
    return Settings(home, home, Path(sys.prefix), "127.0.0.1", PORTS, 60.0, frozenset())


def test_paths_with_blanks_and_percent_signs_survive_the_configuration(tmp_path: Path) -> None:
    home = tmp_path / "100% my hóme's"
    argv = (str(home / "bin" / "redis server"), "--save", "", "it's")
    text = supervise.configuration(settings(home), [Process("redis", argv, 10, Ping())], home / "run" / "s.sock")
    (home / "run").mkdir(parents=True)
    (home / "logs").mkdir()
    written = home / "run" / "supervisord.conf"
    written.write_text(text)
    options = ServerOptions()
    options.realize(["-c", str(written), "-n"])
    program = options.process_group_configs[0].process_configs[0]
    assert tuple(shlex.split(program.command)) == argv
    assert program.stdout_logfile == str(home / "logs" / "redis.log")
    assert program.directory == str(home)
    assert not program.autostart
    assert options.logfile == str(home / "logs" / "supervisord.log")
    assert options.serverurl == f"unix://{home / 'run' / 's.sock'}"


def test_no_secret_of_the_environment_is_written_down(tmp_path: Path) -> None:
    os.environ["MC_FLEET_TOKEN"] = secret = os.environ["MC_FLEET_TOKEN"]
    text = supervise.configuration(settings(tmp_path), [Process("redis", ("r",), 10, Ping())], tmp_path / "s")
    assert secret not in text


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert supervise.tail(path, 3) == "it wrote nothing."
    path.write_bytes(b"x" * 40_000 + b"\none\n\ntwo \xff\nthree\n")
    assert supervise.tail(path, 2).splitlines() == ["two \ufffd", "three"]


def test_members_of_a_session_are_found_and_the_dead_are_not_among_them() -> None:
    head = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60; true"], start_new_session=True)
    try:
        until(lambda: len(supervise.session_members(head.pid)) == 3, what="the shell and its two children")
        head.kill()
        # Dead but not yet waited for: a zombie runs nothing.
        os.waitid(os.P_PID, head.pid, os.WEXITED | os.WNOWAIT)
        left = supervise.session_members(head.pid)
        assert head.pid not in left
        assert left
    finally:
        for pid in supervise.session_members(head.pid):
            os.kill(pid, 9)
        head.wait()
