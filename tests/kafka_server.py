"""A real Apache Kafka for tests: one node without ZooKeeper (KRaft), from its jars, in a folder, on free ports.

Maven fetches the jars once, into the user's cache (tests/kafka/pom.xml says which).
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as Xml
from collections.abc import Mapping
from pathlib import Path

from tests import machine
from tests.waiting import free_ports, listening, until

POM = Path(__file__).resolve().parent / "kafka" / "pom.xml"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
# A small heap, and a start that saves compiling what runs for a minute.
JAVA = ("-Xmx384m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


def jars() -> Path:
    """The folder of the jars, fetched if need be; AssertionError with Maven's words when they can't be."""
    version = Xml.parse(POM).findtext(".//{*}kafka.version")  # noqa: S314 - our own file
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mission-control"
    folder = cache / f"kafka-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        # Two test processes ask at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            argv = ["mvn", "-q", "-B", "-f", str(POM), PLUGIN, "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, f"Kafka's jars can't be fetched: {(done.stdout + done.stderr)[-1500:]}"
            (folder / "complete").touch()
    return folder


class KafkaServer:
    """May be killed, and started again on its own data."""

    def __init__(self, folder: Path, more: Mapping[str, object] | None = None, *formatting: str) -> None:
        """``more`` are settings, ``{plain}`` in them the plain listeners; ``formatting`` goes to the storage tool."""
        assert shutil.which("java"), machine.lacks("kafka")
        self.folder = folder
        self.log = folder / "kafka.log"
        self.port, control = free_ports(2)
        self.url = f"kafka://127.0.0.1:{self.port}"
        self._argv = ["java", *JAVA, "-cp", f"{jars()}/*"]
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "server.properties"
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{control}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{control}",
            "log.dirs": folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            # A node that was killed is taken back when its earlier self is given up.
            "broker.session.timeout.ms": 1500,
            "broker.heartbeat.interval.ms": 300,
            # Tests lease for a second, and wait for nobody who might join as well.
            "group.min.session.timeout.ms": 100,
            "group.initial.rebalance.delay.ms": 0,
        }
        for name, value in (more or {}).items():
            settings[name] = str(value).replace("{plain}", str(settings.get(name, "")))
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._formatting = formatting
        self._format()

    def _format(self) -> None:
        # A first letter that can't be "-", which would be an option.
        identity = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        done = subprocess.run(
            [
                *self._argv,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                identity,
                "-c",
                str(self._config),
                *self._formatting,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> KafkaServer:
        """Start it and wait until it takes connections."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*self._argv, "kafka.Kafka", str(self._config)], stdout=log, stderr=log)
        try:
            until(self._ready, 60, what="Kafka")
        except BaseException:
            self.kill()
            raise
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        return listening(self.port)

    def kill(self) -> None:
        """SIGKILL, and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def wipe(self) -> None:
        """Kill it, and have it begin as another cluster on an empty disk at its next start."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self._format()

    def end(self) -> None:
        """Kill it and take its data away."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)
