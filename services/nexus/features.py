"""From text to features: what the trainer counts and what the service looks up, so both call this. Pure.

Two blocks, each weighed and normalised by itself: words with their pairs, and pieces of words.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

from services.nexus.slots import mask

_WORD = re.compile(r"\w+")
MIN_PIECE, MAX_PIECE = 2, 4


def words(text: str) -> list[str]:
    """Words and pairs of neighbours, with the sentence's ends, after amounts and the like became placeholders."""
    found = ["^", *_split(text), "$"]
    return found[1:-1] + [f"{left} {right}" for left, right in pairwise(found)]


def pieces(text: str) -> list[str]:
    """``send`` gives ``<s se en nd d>`` and longer: what misspellings and endings share."""
    found = []
    for word in _split(text):
        edged = f"<{word}>"
        for size in range(MIN_PIECE, MAX_PIECE + 1):
            found += [edged[start : start + size] for start in range(len(edged) - size + 1)]
    return found


BLOCKS = (words, pieces)


@lru_cache(maxsize=2)
def _split(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", mask(text)).lower()
    return _WORD.findall(plain.replace("’", "").replace("'", ""))
