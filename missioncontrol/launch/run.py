"""``make run`` as stages: look, install, prepare, start, watch, drain.

Each stage is a method; what goes wrong before everything is up is a Stop with one sentence, and
nothing that was started stays behind, whichever way the run ends.
"""

from __future__ import annotations

import os
import resource
import select
import shlex
import signal
import subprocess
import time
from types import FrameType

from missioncontrol.launch import engines, layout, ready, redisconf, redisdata, stamp, venv
from missioncontrol.launch import settings as environment
from missioncontrol.launch.hangs import MOST, Hangs
from missioncontrol.launch.processes import SERVICES, STATE, Process, table
from missioncontrol.launch.report import Report, Stop
from missioncontrol.launch.settings import Settings
from missioncontrol.launch.supervise import GONE, Status, Supervisor, tail
from services.kit import env

SETTLE = 15.0
"""Seconds after which a service that its health check still finds failing is reported and not waited for."""
LOOK = 5.0
"""Seconds between two looks at the processes while all is well."""
REVIVE = 15.0
"""Seconds after which a process that the supervisor gave up on is started again."""
TRIES = 4
"""A process that was started more often than this before all is up won't come up."""
FILES = 65_536
"""Open files that a gateway with many connections may need."""


class Signals:
    """SIGINT, SIGTERM and SIGHUP: until ``watch`` they interrupt the work, afterwards they are counted."""

    def __init__(self) -> None:
        self.count = 0
        self._watching = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._arrived)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def watch(self) -> None:
        """From now on a signal is a request to look at, no interruption."""
        self._watching = True

    def wait(self, seconds: float) -> int:
        """Sleep until a signal (a child's end too) or until the time is over; how often we were asked to stop."""
        select.select([self._read], [], [], seconds)
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass
        return self.count

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self._watching:
            raise KeyboardInterrupt


class Run:
    """One run, from the first look at the environment to the last process's end."""

    def __init__(self, settings: Settings, report: Report, signals: Signals) -> None:
        self.settings, self.report, self.signals = settings, report, signals
        self.processes: list[Process] = []
        self.supervisor: Supervisor | None = None
        self.began = time.time()
        self._pids: dict[str, set[int]] = {}
        self._held: list[Process] = []

    def main(self) -> int:
        """The whole run; its exit code."""
        report, settings = self.report, self.settings
        report.say("Mission Control")
        layout.make_folders(settings.home)
        layout.check_room(settings.home)
        lock = layout.Lock(settings.home)
        try:
            environment.check_ports(settings)
            for name in environment.open_engines():
                report.say(f"  warning: {name} names a server on another machine and no password for it.")
            self._install()
            self._boot(lock)
            try:
                self._start()
                self._welcome()
                self.signals.watch()
                return self._watch()
            except BaseException:
                self._abandon()
                raise
        finally:
            lock.release()

    def _install(self) -> None:
        settings, report = self.settings, self.report
        venv.ensure(settings.venv, [settings.root / "requirements.txt"], settings.home / "logs" / "install.log", report)
        if layout.make_secrets(settings.home) + layout.make_bus_keys(settings.home):
            report.done(f"secrets made in {settings.home / 'secrets'}")
        self.processes = table(settings, self._redis() if settings.own_redis else "")

    def _redis(self) -> str:
        """The embedded Redis's binary, its configuration written."""
        home, server = self.settings.home, engines.redis_server(self.settings.venv)
        if why := redisdata.objection(home / "redis", server):
            raise Stop(
                f"{why}: set REDIS_URL to a server that does, or move the folder away to begin anew (limits, live "
                "state and events that were not delivered yet are in it)."
            )
        redisdata.mark(home / "redis", server)
        text = redisconf.configuration(
            home / "redis", self.settings.ports["MC_REDIS_PORT"], env.secret("MC_REDIS_PASSWORD")
        )
        layout.write_private(layout.redis_config_path(home), text)
        return server.path

    def _boot(self, lock: layout.Lock) -> None:
        # The database, the logs, the ledger: for the owner alone, also where MC_HOME itself is open to others.
        os.umask(0o077)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.supervisor = Supervisor(self.settings, self.processes, lock)
        self.supervisor.boot()

    def _start(self) -> None:
        first = [process for process in self.processes if process.rank == STATE]
        rest = [process for process in self.processes if process.rank != STATE]
        self._launch(first)
        # The others wait for Redis by themselves, but a retry of theirs costs more than this wait does.
        self._ready([process for process in first if process.name == "redis"])
        if not stamp.current(self.settings):
            self._prepare()
        here = {process.name for process in rest}
        self._held = [process for process in rest if here & set(process.after)]
        # Services first: they are what the health checks look at.
        self._launch(sorted((each for each in rest if each not in self._held), key=lambda each: each.rank != SERVICES))
        waiting = list(self._held)
        self._ready(
            [process for process in rest if process not in waiting] + [each for each in first if each.name != "redis"]
        )
        self._launch(self._held)
        self._ready(waiting)
        self._serving()

    def _launch(self, processes: list[Process]) -> None:
        assert self.supervisor is not None  # noqa: S101 - booted before
        for process in processes:
            self.supervisor.start(process.name)

    def _prepare(self) -> None:
        log = self.settings.home / "logs" / "prepare.log"
        self.report.note("preparing: database, static files, reference fleet", every=0)
        with log.open("wb") as file:
            work = subprocess.Popen(
                [self.settings.python, "-m", "missioncontrol.launch.prepare"],
                cwd=self.settings.root,
                env=self.settings.children_env(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
            try:
                code = work.wait()
            except BaseException:
                work.terminate()
                work.wait()
                raise
        if code:
            steps = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("step: ")]
            step = steps[-1].removeprefix("step: ") if steps else "setting up Django"
            raise Stop(f"Preparing failed at '{step}': {tail(log, 1)}\nThe whole log is {log}.")
        stamp.write(self.settings)
        self.report.done("database migrated, static files collected, reference fleet seeded")

    def _ready(self, processes: list[Process]) -> None:
        if not processes:
            return
        up: list[str] = []

        def on_ready(process: Process) -> None:
            up.append(process.name)
            free = [held for held in self._held if not (set(held.after) & self._names) - set(up)]
            self._held = [held for held in self._held if held not in free]
            self._launch(free)
            left = sorted({each.name for each in processes} - set(up))
            if left:
                self.report.note(f"{len(up)} of {len(processes)} ready; waiting for {', '.join(left)}", every=2)

        began = time.monotonic()
        late = ready.wait_for(
            processes, self.settings.redis_url, self.began, self.settings.patience, on_ready, self._hopeless
        )
        if any(not answer.process.demo for answer in late):
            raise Stop(self._blame(late))
        self.report.done(f"ready: {' '.join(up)}  ({time.monotonic() - began:.1f} s)")
        for answer in late:
            log = self.settings.home / "logs" / f"{answer.process.name}.log"
            self.report.done(f"{answer.process.name} is not ready yet ({answer.reason}); the rest runs: see {log}")

    def _serving(self) -> None:
        """Wait until no service is out of the gateway's rotation, as one may be that came up late."""
        if "worker" not in self._names:
            return
        deadline = time.monotonic() + SETTLE
        while out := ready.out_of_rotation(self.settings.redis_url):
            if time.monotonic() > deadline:
                self.report.done(f"still out of rotation, see the services page: {', '.join(out)}")
                return
            self.report.note(f"waiting for the health checks to see {', '.join(out)} up", every=2)
            time.sleep(0.1)

    @property
    def _names(self) -> set[str]:
        return {process.name for process in self.processes}

    def _hopeless(self) -> set[str]:
        """Processes that the supervisor has given up on, or that have ended and begun again too often."""
        assert self.supervisor is not None  # noqa: S101 - booted before
        found = set()
        for name, status in self.supervisor.statuses().items():
            tries = self._pids.setdefault(name, set())
            tries |= {status.pid} - {0}
            if status.state == "FATAL" or len(tries) > TRIES:
                found.add(name)
        return found

    def _blame(self, late: list[ready.Answer]) -> str:
        dead = self._hopeless()
        late = sorted(late, key=lambda answer: (answer.process.demo, answer.process.name not in dead))
        culprit = late[0]
        name = culprit.process.name
        log = self.settings.home / "logs" / f"{name}.log"
        others = [answer.process.name for answer in late[1:]]
        what = (
            "ended again and again"
            if name in dead
            else f"was not ready within {self.settings.patience:.0f} s ({culprit.reason})"
        )
        also = f" Not ready either: {', '.join(others)}." if others else ""
        return f"{name} {what}. Its last lines:\n{tail(log, 12)}\nThe whole log is {log}.{also}"

    def _welcome(self) -> None:
        settings, ports = self.settings, self.settings.ports
        here = {process.name for process in self.processes}
        host = "localhost" if settings.reach == environment.LOOPBACK else settings.reach
        base = {name: f"http://{host}:{ports[name]}" for name in ports}
        pages, gateway = base["MC_CONTROL_PORT"], base["MC_GATEWAY_PORT"]
        secrets = settings.home / "credentials.json"
        lines = [f"\nMission Control is up ({self.report.elapsed:.1f} s).", ""]
        if "control" in here:
            lines += [f"  pages        {pages}/", f"  API docs     {pages}/api/docs/", f"  admin        {pages}/admin/"]
        if "gateway" in here:
            lines += [f"  gateway      {gateway}"]
        if "collector" in here:
            lines += [f"  OTLP/HTTP    {base['MC_OTLP_HTTP_PORT']}"]
        lines += [f"  credentials  {secrets}", f"  logs         {settings.home / 'logs'}", ""]
        if {"gateway", "nexus"} <= here:
            ask = """import json, sys; print(json.load(open(sys.argv[1]))["demo_api_key"])"""
            lines += [f"  KEY=$(python3 -c '{ask}' {shlex.quote(str(secrets))})"]
            lines += ["""  curl -H "X-API-Key: $KEY" -H 'Content-Type: application/json' \\"""]
            lines += [f"""       -d '{{"text":"send 25 AZR to thandi"}}' {gateway}/nexus/v1/intents""", ""]
        self.report.say("\n".join([*lines, "Ctrl-C stops everything."]))

    def _watch(self) -> int:
        assert self.supervisor is not None  # noqa: S101 - booted before
        known = self.supervisor.statuses()
        given_up: dict[str, float] = {}
        hangs = Hangs(self.processes, self.settings.hang_s, self.settings.patience, LOOK)
        while not self.signals.wait(LOOK):
            if not self.supervisor.alive():
                raise Stop(
                    "The supervisor ended without being asked, and everything with it: "
                    f"its log is {self.settings.home / 'logs' / 'supervisord.log'}."
                )
            for name, status in self.supervisor.statuses().items():
                before = known.get(name, status)
                if _word(status) != _word(before):
                    self.report.done(f"{name} is {_word(status)}")
                elif status.pid != before.pid:
                    self.report.done(f"{name} was started again")
                known[name] = status
                if status.state != "FATAL":
                    given_up.pop(name, None)
                elif time.monotonic() - given_up.setdefault(name, time.monotonic()) > REVIVE:
                    del given_up[name]
                    self.supervisor.start(name)
            self._end_hung(hangs, known)
        return self._drain()

    def _end_hung(self, hangs: Hangs, known: dict[str, Status]) -> None:
        assert self.supervisor is not None  # noqa: S101 - booted before
        running = {name: status.pid for name, status in known.items() if status.state == "RUNNING"}
        url = self.settings.redis_url
        for name, seconds in hangs.look(time.monotonic, running, lambda process: ready.lives(process, url)).items():
            if hangs.killed(name, time.monotonic()):
                self.report.done(f"{name} has given no sign of life for {seconds:.0f} s and is killed")
                self.supervisor.kill_one(name, running[name])
            else:
                self.report.done(f"{name} hangs again; it was killed {MOST} times within an hour and is left as it is")

    def _drain(self) -> int:
        """Stop rank by rank, what faces clients first; a second signal ends it at once."""
        assert self.supervisor is not None  # noqa: S101 - booted before
        asked = self.signals.count
        self.report.say("\nStopping; once more to stop at once.")
        for rank in sorted({process.rank for process in self.processes}, reverse=True):
            wave = [process for process in self.processes if process.rank == rank]
            self.supervisor.stop([process.name for process in wave])
            deadline = time.monotonic() + max(process.stop_wait for process in wave) + 3
            while left := self._unstopped(wave):
                if self.signals.count > asked:
                    self.supervisor.kill()
                    self.report.done("stopped at once")
                    return 0
                if time.monotonic() > deadline:
                    break
                self.report.note(f"waiting for {', '.join(left)}", every=3)
                self.signals.wait(0.05)
            self.report.done(f"stopped: {' '.join(process.name for process in wave)}")
        self.supervisor.end()
        self.report.say("Stopped; nothing is left running.")
        return 0

    def _unstopped(self, wave: list[Process]) -> list[str]:
        assert self.supervisor is not None  # noqa: S101 - booted before
        statuses = self.supervisor.statuses()
        names = [process.name for process in wave if process.name in statuses]
        return [name for name in names if statuses[name].state not in GONE]

    def _abandon(self) -> None:
        """Something failed: stop all that was started, and let nobody interrupt that but a second signal."""
        if self.supervisor is None:
            return
        self.signals.watch()
        asked = self.signals.count
        self.supervisor.stop([process.name for process in self.processes])
        deadline = time.monotonic() + 15
        while self._unstopped(self.processes) and time.monotonic() < deadline and self.signals.count == asked:
            self.signals.wait(0.05)
        if self.signals.count > asked:
            self.supervisor.kill()
        else:
            self.supervisor.end()


def _word(status: Status) -> str:
    """The state in a word; the seconds that the supervisor calls starting are none of the reader's concern."""
    return "running" if status.state in {"STARTING", "RUNNING"} else status.state.lower()


def run(settings: Settings, report: Report) -> int:
    """Run until stopped. Raises Stop when it can't."""
    try:
        return Run(settings, report, Signals()).main()
    except KeyboardInterrupt:
        report.say("Stopped before everything was up.")
        return 130
