"""Where nexus keeps what it has: the model that ships with it.

nexus holds no business data; what it does is recorded by the services it calls.
"""

from __future__ import annotations

import asyncio

from services.kit.checks import Unwell
from services.nexus.model import SHIPPED, Model, Reading, load


class ModelStore:
    """The model, loaded at start."""

    def __init__(self) -> None:
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        """The model; only after ``start``."""
        if self._model is None:
            raise RuntimeError("the model is not loaded yet")
        return self._model

    async def start(self) -> None:
        """Load the model; BadModel, with the command that makes it anew, when the utterances were changed since."""
        self._model = await asyncio.to_thread(load, SHIPPED)

    async def stop(self) -> None:
        """Nothing is held open."""

    async def probe(self) -> None:
        """Unwell when there is no model."""
        if self._model is None:
            raise Unwell("the model is not loaded")

    def read(self, text: str) -> Reading:
        """What ``text`` means."""
        return self.model.read(text)
