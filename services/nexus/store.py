"""Where nexus keeps what it has: the trained model, made when there is none for these utterances.

nexus holds no business data; what it does is recorded by the services it calls.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

from services.kit.health import Unwell
from services.nexus.model import BadModel, Model, Reading, digest, load

TRAIN_SECONDS = 120.0
_ROOT = Path(__file__).resolve().parents[2]

_log = logging.getLogger("services.nexus")


class TrainingFailed(RuntimeError):
    """The model could not be made; the message is the trainer's last line."""


class ModelStore:
    """The model in ``folder``, loaded at start and trained first if need be."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"nexus-model-{digest()}.bin"
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        """The model; only after ``start``."""
        if self._model is None:
            raise RuntimeError("the model is not loaded yet")
        return self._model

    async def start(self) -> None:
        """Load the model, training it in a process of its own when there is none that fits."""
        try:
            self._model = await asyncio.to_thread(load, self._path)
        except (FileNotFoundError, BadModel) as reason:
            _log.info("training the model: %s", reason)
            began = time.monotonic()
            await _train(self._path)
            self._model = await asyncio.to_thread(load, self._path)
            _log.info("trained in %.1f s: %d intents", time.monotonic() - began, len(self._model.intents))

    async def stop(self) -> None:
        """Nothing is held open."""

    async def probe(self) -> None:
        """Unwell when there is no model."""
        if self._model is None:
            raise Unwell("the model is not loaded")

    def read(self, text: str) -> Reading:
        """What ``text`` means."""
        return self.model.read(text)


async def _train(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.nexus.train",
        str(path),
        cwd=_ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TRAIN_SECONDS):
            _, complaint = await process.communicate()
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise TrainingFailed(lines[-1] if lines else f"the trainer ended with {process.returncode}")
