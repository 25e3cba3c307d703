"""The trained model as the service uses it: a dictionary, two arrays and some arithmetic.

Knows nothing of scikit-learn. The file is made by services.nexus.train from the utterance file and
ships with the program. It holds a digest of all that went into it, so that a changed sentence without
a new model is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.nexus.corpus import FILE, OUT_OF_SCOPE
from services.nexus.features import BLOCKS

SHIPPED: Final = FILE.with_name("model.bin")
MAGIC: Final = "nexus-model-1"
_SOURCES: Final = ("corpus.py", "features.py", "lexicon.py", "model.py", "numerals.py", "slots.py", "train.py")


class BadModel(RuntimeError):
    """The file is not a model for this program."""


@dataclass(frozen=True, slots=True)
class Guess:
    """An intent and how sure the model is, 0 to 1."""

    intent: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a sentence means: ``intent`` is None when the model is unsure; ``top`` are its three best guesses.

    ``certain``: sure enough to move money on it, which asks for more than to name the intent.
    """

    intent: str | None
    confidence: float
    top: tuple[Guess, ...]
    certain: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """What training leaves behind. ``numbers`` are the idf of every feature, then a row of weights for each."""

    intents: list[str]
    blocks: list[list[str]]
    numbers: array[float]
    bias: list[float]
    temperature: float
    threshold: float
    act_threshold: float


class Model:
    """Multinomial logistic regression over TF-IDF features, evaluated in plain Python (some 0.2 ms a sentence)."""

    def __init__(self, weights: Weights) -> None:
        self._intents = weights.intents
        self._numbers = weights.numbers
        self._bias = weights.bias
        self._temperature = weights.temperature
        self._act_threshold = weights.act_threshold
        self.threshold = weights.threshold
        self._index: list[dict[str, int]] = []
        self._size = 0
        for names in weights.blocks:
            self._index.append({name: position for position, name in enumerate(names, self._size)})
            self._size += len(names)

    @property
    def intents(self) -> list[str]:
        """What can be recognised."""
        return [intent for intent in self._intents if intent != OUT_OF_SCOPE]

    def probabilities(self, text: str) -> dict[str, float]:
        """Every class and its calibrated probability."""
        width = len(self._intents)
        scores = list(self._bias)
        for extract, index in zip(BLOCKS, self._index, strict=True):
            counts = Counter(position for name in extract(text) if (position := index.get(name)) is not None)
            weights = {position: (1 + math.log(count)) * self._numbers[position] for position, count in counts.items()}
            norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
            for position, weight in weights.items():
                start = self._size + position * width
                share = weight / norm
                for column, value in enumerate(self._numbers[start : start + width]):
                    scores[column] += share * value
        highest = max(scores)
        powers = [math.exp((score - highest) / self._temperature) for score in scores]
        total = sum(powers)
        return {intent: power / total for intent, power in zip(self._intents, powers, strict=True)}

    def read(self, text: str) -> Reading:
        """The intent of ``text``, or None with the three that come nearest."""
        chances = self.probabilities(text)
        ranked = sorted(chances.items(), key=lambda pair: -pair[1])
        top = tuple(Guess(name, round(chance, 4)) for name, chance in ranked if name != OUT_OF_SCOPE)[:3]
        best, chance = ranked[0]
        sure = best != OUT_OF_SCOPE and chance >= self.threshold
        confidence = round(chance, 4) if sure else top[0].confidence
        return Reading(best if sure else None, confidence, top, sure and chance >= self._act_threshold)


def digest() -> str:
    """What the model depends on: the utterances and the code that reads and learns them."""
    state = hashlib.sha256()
    for path in (FILE, *(FILE.with_name(name) for name in _SOURCES)):
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def load(path: Path) -> Model:
    """Read a model file; BadModel when it is cut short or of another program, FileNotFoundError when absent."""
    raw = path.read_bytes()
    line, _, rest = raw.partition(b"\n")
    try:
        head = json.loads(line)
        if head["magic"] != MAGIC or head["digest"] != digest():
            raise BadModel(f"{path} was made from other utterances: make it anew by python -m services.nexus.train.")
        numbers = array("f", rest)
        if sys.byteorder == "big":
            numbers.byteswap()
        del head["magic"], head["digest"]
        weights = Weights(numbers=numbers, **head)
        if len(numbers) != sum(map(len, weights.blocks)) * (1 + len(weights.intents)):
            raise BadModel(f"{path} is cut short.")
        return Model(weights)
    except (ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{path} can't be read ({type(error).__name__}).") from None
