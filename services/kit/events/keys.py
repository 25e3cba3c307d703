"""The keys of this process, as its environment says them: ``MC_BUS_KEYS``, or the file that holds them.

Lines of ``source=secret``, the newest of a source first, which signs; all verify. A file is read again when it has
changed, so keys come, go and are exchanged while everything runs.

``python -m services.kit.events.keys SOURCE`` puts a new secret for the source on top of the file; the one before it
still verifies, older ones are gone.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from .. import env
from .cloudevent import KEY, CloudEvent
from .signing import BadKey, NoKey, Ring

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
"""Between two looks at whether the file has changed, while events come or go."""
LIVE: Final = 2
"""Secrets of a source that an exchange of keys leaves."""
VARIABLE: Final = "MC_BUS_KEYS"

Stamp = tuple[int, int, int]


class FileKeys:
    """The Keys that ``path`` holds now. What can't be read leaves those known before, and is said once."""

    def __init__(self, path: Path, trusted: list[str]) -> None:
        self._path = path
        self._trusted = trusted
        self._ring = Ring({}, trusted)
        self._stamp: Stamp | None = None
        self._look_at = 0.0
        self._look()

    def sign(self, event: CloudEvent, speaker: str) -> CloudEvent:
        """See Keys."""
        self._look(at_once=speaker not in self._ring.sources)
        try:
            return self._ring.sign(event, speaker)
        except NoKey as error:
            raise NoKey(f"{error} {self._place}") from None

    def may_speak(self, speaker: str, source: str) -> bool:
        """See Keys."""
        return self._ring.may_speak(speaker, source)

    def refusal(self, event: CloudEvent) -> str:
        """See Keys."""
        self._look(at_once=not self._ring.knows(event.extensions.get(KEY)))
        return self._ring.refusal(event)

    def usable(self) -> str:
        """See Keys."""
        self._look()
        why = self._ring.usable()
        return why and f"{why} {self._place}"

    @property
    def _place(self) -> str:
        return f"{VARIABLE} or {self._path} should hold them."

    def _look(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if now < self._look_at and not at_once:
            return
        self._look_at = now + LOOK_EVERY_S
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        before, self._stamp = self._stamp, stamp
        try:
            self._ring = Ring.of(parse(self._path.read_text(), str(self._path)), self._trusted)
        except (OSError, UnicodeDecodeError, env.EnvError, BadKey) as error:
            if before is None:
                raise env.EnvError(f"{self._path} holds no keys: {error}") from None
            log.error("%s holds no keys (%s): those known before stay.", self._path, error)


def read() -> FileKeys | Ring:
    """The keys of this process; EnvError when they can't be understood. There may be none yet."""
    trusted = [unquote(word) for word in env.words("MC_BUS_TRUST")]
    try:
        if said := env.text(VARIABLE, ""):
            return Ring.of(parse(said, VARIABLE), trusted)
        return FileKeys(place(), trusted)
    except BadKey as error:
        raise env.EnvError(f"{VARIABLE} or MC_BUS_TRUST: {error}") from None


def place() -> Path:
    """The file that holds them where the environment does not."""
    named = env.text(f"{VARIABLE}_FILE", "")
    return Path(named) if named else env.home() / "secrets" / VARIABLE.lower()


def parse(text: str, where: str) -> list[tuple[str, str]]:
    """Sources and secrets in their order; EnvError, which tells no secret."""
    found = []
    for number, word in enumerate(text.split(), 1):
        source, equals, secret = word.partition("=")
        if not (source and equals and secret):
            raise env.EnvError(f"Word {number} of {where} is not of the form source=secret.")
        found.append((unquote(source), secret))
    return found


def exchange(path: Path, source: str) -> None:
    """Put a new secret for ``source`` on top of the file; EnvError when that holds something else than keys."""
    known = parse(path.read_text(), str(path)) if path.exists() else []
    mine = [secret for name, secret in known if name == source][: LIVE - 1]
    others = [(name, secret) for name, secret in known if name != source]
    lines = [(source, secrets.token_urlsafe(48)), *((source, secret) for secret in mine), *others]
    write(path, lines)


def write(path: Path, keys: list[tuple[str, str]]) -> None:
    """Write the file for the owner alone, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{quote(source, safe='')}={secret}\n" for source, secret in keys)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _stamp(path: Path) -> Stamp | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return (about.st_mtime_ns, about.st_size, about.st_ino)


def main(words: list[str]) -> int:
    """See the module."""
    if len(words) != 1:
        sys.stderr.write("Which source is to have a new key? Such as: covenant\n")
        return 2
    try:
        exchange(place(), words[0])
    except (env.EnvError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{words[0]} signs by the newest key in {place()}; the one before it, if any, still verifies.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
