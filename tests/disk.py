"""A small file system of its own for a test, so that it can be full. Needs root (see tests/machine.py)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType

MIB = 1024 * 1024


class SmallDisk:
    """A tmpfs of ``megabytes`` at ``folder``, gone with the test."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._size = megabytes
        self._ballast = folder / "ballast"

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take up what is free, but for ``leave`` bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            left = self.free - leave
            while left > 0:
                try:
                    left -= file.write(bytes(min(left, MIB)))
                except OSError:
                    return

    def clear(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["-t", "tmpfs", "-o", f"size={self._size}m", "tmpfs", str(self.folder)]
        subprocess.run(["mount", *options], check=True, timeout=10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Lazily: a process that a failed test left behind may still have a file open.
        subprocess.run(["umount", "-l", str(self.folder)], check=True, timeout=10)
