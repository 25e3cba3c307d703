"""The supervisor as the launcher sees it: its generated configuration, its life, and what to ask it.

Owns the one supervisord of a home and the process tree under it. Knows nothing of readiness.
"""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import time
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from missioncontrol.launch import layout
from missioncontrol.launch.processes import Process
from missioncontrol.launch.report import Stop
from missioncontrol.launch.settings import Settings

BOOT = 20.0
"""Seconds for supervisord to answer."""


@dataclass(frozen=True, slots=True)
class Status:
    """One process as the supervisor knows it; ``state`` is its word (RUNNING, BACKOFF, FATAL …)."""

    name: str
    state: str
    pid: int
    reason: str


LISTEN = "MC_LISTEN"
"""The variable that tells the daemon which socket to keep for a process (never set by people)."""

GONE = {"STOPPED", "EXITED", "FATAL"}


class Supervisor:
    """Start, ask and stop one supervisord. All calls are synchronous and answer within seconds."""

    def __init__(self, settings: Settings, processes: list[Process], lock: layout.Lock) -> None:
        self._settings, self._processes, self._lock = settings, processes, lock
        self._socket = layout.supervisor_socket(settings.home)
        self._errors = settings.home / "logs" / "supervisord.err"
        self._child: subprocess.Popen[bytes] | None = None
        self._watch = -1
        self._rpc = _proxy(self._socket)

    def boot(self) -> None:
        """Start supervisord, with nothing running under it yet."""
        config = layout.config_path(self._settings.home)
        layout.write_private(config, configuration(self._settings, self._processes, self._socket))
        # A killed run leaves its socket; nobody else can be behind it, for we hold the lock.
        self._socket.unlink(missing_ok=True)
        layout.write_addresses(self._settings.home, self._settings.host, self._settings.ports)
        mine, self._watch = os.pipe()
        argv = [self._settings.python, "-m", "missioncontrol.launch.daemon", str(config), str(mine)]
        with self._errors.open("wb") as errors:
            self._child = subprocess.Popen(
                argv,
                cwd=self._settings.root,
                env=self._settings.children_env(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(mine, self._lock.descriptor),
                # A session of its own: Ctrl-C reaches the launcher alone, which then stops things in order.
                start_new_session=True,
            )
        os.close(mine)
        deadline = time.monotonic() + BOOT
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise Stop(f"The supervisor did not start: {tail(self._errors, 3)} Its log is {self._errors}.")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of supervisord, which is also the number of the session everything runs in."""
        return self._child.pid if self._child else 0

    def alive(self) -> bool:
        """Is supervisord running?"""
        return self._child is not None and self._child.poll() is None

    def start(self, name: str) -> None:
        """Start one process, without waiting for it."""
        try:
            self._rpc.supervisor.startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise Stop(f"{name} could not be started: {fault.faultString}.") from None

    def statuses(self) -> dict[str, Status]:
        """Every process by name; empty when supervisord doesn't answer."""
        try:
            rows = cast("list[dict[str, Any]]", self._rpc.supervisor.getAllProcessInfo())
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return {}
        return {row["name"]: Status(row["name"], row["statename"], row["pid"], row["spawnerr"]) for row in rows}

    def stop(self, names: list[str]) -> None:
        """Ask these processes to stop, all at once; whoever outlasts its time is killed by the supervisor."""
        for name in names:
            try:
                self._rpc.supervisor.stopProcess(name, False)
            except xmlrpc.client.Fault:
                continue  # it wasn't running
            except (OSError, http.client.HTTPException):
                return  # the supervisor is gone, and took them along

    def end(self, patience: float = 30.0) -> None:
        """End supervisord and whatever is left of its session, politely first."""
        if self._child is None:
            return
        if self.alive():
            self._child.terminate()
            try:
                self._child.wait(patience)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._sweep()
        self._tidy()

    def kill(self) -> None:
        """End everything at once."""
        if self._child is None:
            return
        # Before the supervisor, lest it starts again what we kill.
        self._child.kill()
        self._child.wait()
        for pid in self.session():
            _signal(pid, signal.SIGKILL)
        self._tidy()

    def kill_one(self, name: str, pid: int) -> None:
        """Kill a process with its own workers, if it still has this number; the supervisor starts another."""
        status = self.statuses().get(name)
        if status is not None and status.pid == pid:
            try:
                # Each is the head of a group of its own (supervisord calls setpgrp).
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def session(self) -> list[int]:
        """The processes of the supervisor's session that still live, itself excepted."""
        return [pid for pid in session_members(self.pid) if pid != self.pid] if self.pid else []

    def _sweep(self) -> None:
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 2.0)):
            for pid in self.session():
                _signal(pid, number)
            deadline = time.monotonic() + patience
            while self.session() and time.monotonic() < deadline:
                time.sleep(0.05)

    def _tidy(self) -> None:
        os.close(self._watch)
        self._child, self._watch = None, -1
        layout.remove_socket(self._settings.home, self._socket)

    def _answers(self) -> bool:
        if not self._socket.exists():
            return False
        return len(self.statuses()) == len(self._processes)


def configuration(settings: Settings, processes: list[Process], socket_path: Path) -> str:
    """supervisord's configuration. Environment and secrets are inherited, never written here."""
    home, logs = settings.home, settings.home / "logs"

    def ini(value: object) -> str:
        return str(value).replace("%", "%%")

    lines = [
        "; Written by the launcher at every start: changes made here are lost.",
        "[supervisord]",
        f"logfile={ini(logs / 'supervisord.log')}",
        "logfile_maxbytes=2MB",
        "logfile_backups=1",
        f"pidfile={ini(home / 'run' / 'supervisord.pid')}",
        f"childlogdir={ini(logs)}",
        f"directory={ini(settings.root)}",
        "nodaemon=true",
        "silent=true",
        "umask=077",
        *(["user=root"] if os.geteuid() == 0 else []),
        "[unix_http_server]",
        f"file={ini(socket_path)}",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisorctl]",
        f"serverurl=unix://{ini(socket_path)}",
    ]
    for process in processes:
        lines += [
            f"[program:{process.name}]",
            f"command={ini(shlex.join(process.argv))}",
            f"directory={ini(settings.root)}",
            f"priority={process.rank}",
            *([f'environment={LISTEN}="{ini(process.listen)}"'] if process.listen else []),
            "autostart=false",
            "autorestart=true",
            # Longer than it takes to fail at importing, so that a part which can't start is retried
            # ever more slowly and then given up, where it would else spin.
            "startsecs=4",
            "startretries=3",
            "stopsignal=TERM",
            f"stopwaitsecs={process.stop_wait}",
            # Only the head of a group is asked to stop, for it ends its own workers in order; a kill is for all.
            "stopasgroup=false",
            "killasgroup=true",
            "redirect_stderr=true",
            # Expanded twice by supervisord, unlike every other value.
            f"stdout_logfile={ini(ini(logs / (process.name + '.log')))}",
            "stdout_logfile_maxbytes=5MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


def tail(path: Path, lines: int) -> str:
    """The last non-empty lines of a log; a sentence when there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(kept) or "it wrote nothing."


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(os.fspath(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


def _proxy(path: Path) -> Any:
    return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_UnixTransport(path))


def session_members(session: int) -> list[int]:
    """The live processes of a session (on Linux; elsewhere the supervisor's own bookkeeping must do)."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # After the name, which may hold anything but is closed by the last bracket: state, parent, group, session.
            state, _, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state not in "ZX":
            members.append(int(folder.name))
    return members


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
