"""A throwaway PostgreSQL cluster: made in a temporary folder, on a free loopback port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests import machine
from tests.waiting import free_port, until


@dataclass
class Server:
    """A real PostgreSQL that a test may stop and start again."""

    url: str
    argv: list[str]
    folder: Path
    who: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when it takes connections."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, **self.who)
        data = self.folder / "data"
        until(lambda: (data / "postmaster.pid").exists() and _accepts(data), 30, what="PostgreSQL")

    def stop(self) -> None:
        """Stop it as ``pg_ctl stop -m fast`` does: whoever is connected is cut off."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL to all of it at once, as when its machine goes: what was committed is in its files."""
        assert self.process is not None
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for one in every:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(30)
        psutil.wait_procs(every, timeout=30)
        # It speaks of the one that is gone.
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of a real PostgreSQL's own database; tests make theirs beside it."""
    with server() as running:
        yield running.url


@contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """A running PostgreSQL, ``durable`` over a kill. It refuses to run as root: then it runs as ``postgres`` or
    ``nobody``."""
    initdb, binary = machine.postgres("initdb"), machine.postgres("postgres")
    assert initdb and binary, machine.lacks("postgres")
    folder = Path(tempfile.mkdtemp(prefix="mc-pg-", dir="/tmp"))  # short: a socket lies in it
    who = _unprivileged(folder)
    password = secrets.token_hex(16)
    try:
        given = folder / "password"
        given.write_text(password)
        if who:
            shutil.chown(given, who["user"], who["group"])
        data, port = folder / "data", free_port()
        options = ["-U", "mission", "-A", "scram-sha-256", f"--pwfile={given}", "-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run([initdb, "-D", str(data), *options], capture_output=True, text=True, check=False, **who)
        assert done.returncode == 0, done.stdout + done.stderr
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder}
        # Nothing here outlives the run, so nothing needs to reach the disk.
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": 60}
        if durable:
            # In the files of a machine that goes on, though not on its disk.
            settings |= {"synchronous_commit": "on", "full_page_writes": "on", "max_connections": 150}
        argv = [
            binary,
            "-D",
            str(data),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]
        made = Server(f"postgres://mission:{password}@127.0.0.1:{port}/postgres", argv, folder, who)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _accepts(data: Path) -> bool:
    """The last line of the lock file says so (PostgreSQL 10 and newer)."""
    return (data / "postmaster.pid").read_text().rstrip().endswith("ready")


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Who runs the server, as Popen's keywords: nobody else when we aren't root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": folder}
