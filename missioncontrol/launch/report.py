"""What the launcher tells the person at the terminal: stages with their times, and one sentence when it must stop.

Standard library only, as all of the launcher: it runs before anything is installed.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Stop(Exception):
    """The launcher can't go on; the message is for a person and says what to do."""


class Report:
    """Progress lines on ``out``: on a terminal the current stage is rewritten in place, elsewhere a line per stage."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._began = time.monotonic()
        self._shown = ""
        self._last_note = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the report began."""
        return time.monotonic() - self._began

    def done(self, text: str) -> None:
        """A stage that is over, with the seconds since the beginning."""
        self._clear()
        self._write(f"  {self.elapsed:6.1f} s  {text}\n")

    def note(self, text: str, *, every: float = 5.0) -> None:
        """How far the current stage is: in place on a terminal, else at most one line in ``every`` seconds."""
        if self._live:
            self._clear()
            self._shown = f"  {self.elapsed:6.1f} s  {text} "[:100]
            self._write(self._shown)
        elif time.monotonic() - self._last_note >= every:
            self._last_note = time.monotonic()
            self._write(f"  {self.elapsed:6.1f} s  {text}\n")

    def say(self, text: str = "") -> None:
        """A line of its own."""
        self._clear()
        self._write(text + "\n")

    def end_line(self) -> None:
        """Leave the terminal clean for somebody else's words."""
        self._clear()

    def _clear(self) -> None:
        if self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            # Whoever read our lines has gone (``make run | head``), or the disk that they go to is full: the work
            # goes on in silence.
            self._live = False
