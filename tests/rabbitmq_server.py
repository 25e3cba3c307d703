"""A real RabbitMQ for tests: Debian's, one node with a name, a cookie and a folder of its own, on free ports.

Nodes of Erlang find each other by a daemon, epmd, which a node starts where there is none and leaves behind. Here each
node has one of its own, on a port of its own, that is started before it and ended after it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from tests import machine
from tests.waiting import free_ports, listening, until


class RabbitServer:
    """Starts with one user; may be killed, and started again on its own data."""

    def __init__(self, folder: Path, lines: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mc-rmq-", dir="/tmp"))  # short: paths go into names of its own
        self.log = folder / "rabbitmq.log"
        self.port, dist, self._epmd_port = free_ports(3)
        password = secrets.token_urlsafe(16)
        self.url = f"amqp://mission:{quote(password, safe='')}@127.0.0.1:{self.port}/"
        self._processes: list[subprocess.Popen[bytes]] = []
        config = self.folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = mission\ndefault_pass = {password}\n"
            "log.console = true\nlog.console.level = warning\nlog.file = false\n"
            # The disk of a test machine is not its concern, nor is who else needs memory.
            "disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 1GB\n" + lines
        )
        config.chmod(0o600)
        (self.folder / "plugins").write_text("[].\n")
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TESTS_OF_RUN") if name in os.environ}
        self._environment = kept | {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"mc{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(dist),
            # Two schedulers are enough, and they wait without spinning.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> RabbitServer:
        """Start it and wait until it takes connections."""
        program = machine.rabbitmq()
        epmd = shutil.which("epmd")
        assert program and epmd, machine.lacks("rabbitmq")
        try:
            self._run([epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"])
            until(lambda: listening(self._epmd_port), 10, what="epmd")
            node = self._run([program])
            until(lambda: self._ready(node), 60, what="RabbitMQ")
        except BaseException:
            self.kill()
            raise
        return self

    def _run(self, argv: list[str]) -> subprocess.Popen[bytes]:
        # A group of its own: the server's program is a shell around the one that serves.
        with self.log.open("ab") as log:
            made = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        self._processes.append(made)
        return made

    def _ready(self, node: subprocess.Popen[bytes]) -> bool:
        assert node.poll() is None, self.log.read_text()[-2000:]
        return listening(self.port)

    def ctl(self, *arguments: str) -> None:
        """rabbitmqctl, with these arguments."""
        program = Path(machine.rabbitmq() or "").with_name("rabbitmqctl")
        done = subprocess.run([program, *arguments], env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self) -> None:
        """SIGKILL to the node and its epmd, and wait for them."""
        for process in reversed(self._processes):
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait(10)
        self._processes.clear()
        until(lambda: not listening(self.port), 10, what="RabbitMQ gone")

    def wipe(self) -> None:
        """Kill it, and have it begin on an empty disk at its next start."""
        self.kill()
        shutil.rmtree(self.folder / "data")

    def end(self) -> None:
        """Kill it and take its data away."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
