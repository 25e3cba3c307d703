"""A real Redis for tests: the server and the configuration that ``make run`` uses, on a free port, in a folder."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import redis

from missioncontrol.launch import engines, layout, redisconf
from services.kit.env import ENGINE_USER
from tests.waiting import free_port, until


class RedisServer:
    """Starts with its password; may be killed, and started again on its own data when it is ``durable``.

    Its one user may also do what tests need between each other (FLUSHALL). ``admin_url`` may do everything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = False,
        password: str = "",
        port: int = 0,
        binary: str = "",
        lines: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, port or free_port()
        self.password = password or secrets.token_urlsafe(16)
        self.url = f"redis://{ENGINE_USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/0"
        self.admin_url = admin_url(self.url)
        self.binary = binary or engines.redis_server(Path(sys.prefix)).path
        self.process: subprocess.Popen[bytes] | None = None
        self._lines = lines
        self.config = folder / "redis.conf"
        layout.write_private(self.config, self.text(durable))

    def text(self, durable: bool) -> str:
        """Of its configuration."""
        digest = hashlib.sha256(self.password.encode()).hexdigest()
        rules = (*redisconf.RULES, "+flushall +flushdb")
        more = f"user admin on #{digest} ~* &* +@all\n{self._lines}"
        return redisconf.configuration(self.folder, self.port, self.password, durable=durable, rules=rules, more=more)

    def start(self) -> RedisServer:
        """Start it and wait until it answers."""
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, str(self.config)], stdout=log, stderr=log)
        try:
            with redis.Redis.from_url(self.url) as client:
                until(lambda: self._answers(client), 20, what="redis")
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def _answers(self, client: redis.Redis) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()[-1000:]
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def admin_url(url: str) -> str:
    """The same server for the user who may do everything."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.replace(f"{ENGINE_USER}:", "admin:", 1)).geturl()
