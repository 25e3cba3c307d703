"""Clients that ask again and again while something is done to who serves them."""

from __future__ import annotations

import threading
from typing import Self

from tests.waiting import until


class Callers:
    """Threads that ask until the block ends, each keeping its connection or not. ``wrong`` holds every answer that was
    not the one wanted. Who derives from it says how to ask (``call``)."""

    def __init__(self, count: int, pause: float = 0.0) -> None:
        self.answered = 0
        self.wrong: list[str] = []
        self._pause = pause
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self.call, args=(number % 2 == 0,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 50) -> None:
        """Wait until so many more have been answered, or one wrongly."""
        target = self.answered + count
        until(lambda: self.answered >= target or self.wrong, 60, every=0.01, what="more answers")

    def call(self, keep: bool) -> None:
        """Ask until ``over``, and ``note`` what comes; ``keep``: on one connection."""
        raise NotImplementedError

    def over(self) -> bool:
        """Whether the block has ended; waits the pause between two requests."""
        return self._stop.wait(self._pause)

    def note(self, wrong: str = "", *, answered: bool = True) -> None:
        """One request ended."""
        with self._lock:
            self.answered += answered
            if wrong:
                self.wrong.append(wrong)
