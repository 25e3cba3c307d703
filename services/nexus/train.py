"""``python -m services.nexus.train``: learn the intents and write the model file that ships.

For developers, who have scikit-learn; the service carries neither it nor the memory of training.
TF-IDF over words and pieces of words, then multinomial logistic regression; the temperature and the
threshold of "unsure" are fitted on predictions for held-out folds.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion
from threadpoolctl import threadpool_limits

from services.nexus.corpus import ACTING, OUT_OF_SCOPE, Utterance, load
from services.nexus.features import BLOCKS
from services.nexus.model import MAGIC, SHIPPED, digest

# Every sentence is fitted and judged several times; reading it once is enough.
_BLOCKS = {block.__name__: cache(block) for block in BLOCKS}
FOLDS = 3
ACCEPTED_ERROR = 0.10
"""Of the held-out sentences that are answered with an intent, at most this share may be answered wrongly,"""
ACCEPTED_ERROR_ACTING = 0.03
"""and of those answered with an intent that moves money, this share."""


def fit(utterances: list[Utterance]) -> tuple[FeatureUnion, LogisticRegression]:
    """The vectoriser and classifier of ``utterances``."""
    blocks = [(name, TfidfVectorizer(analyzer=block, sublinear_tf=True)) for name, block in _BLOCKS.items()]
    vectorizer = FeatureUnion(blocks)
    matrix = vectorizer.fit_transform([utterance.text for utterance in utterances])
    classifier = LogisticRegression(C=10.0, max_iter=200, tol=1e-3)
    # The matrices are small: more threads would spend their time waiting for each other.
    with threadpool_limits(1):
        classifier.fit(matrix, [utterance.intent for utterance in utterances])
    return vectorizer, classifier


def calibrate(utterances: list[Utterance]) -> tuple[float, float, float]:
    """Temperature, threshold and threshold for acting, from predictions on folds that were not learnt from."""
    labels = np.array([utterance.intent for utterance in utterances])
    names = np.unique(labels)
    truth = np.searchsorted(names, labels)
    scores = np.zeros((len(utterances), len(names)))
    for learn, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(scores, labels):
        vectorizer, classifier = fit([utterances[index] for index in learn])
        scores[judge] = classifier.decision_function(vectorizer.transform([utterances[index].text for index in judge]))

    def loss(temperature: float) -> float:
        chances = _softmax(scores / temperature)
        return float(-np.log(chances[np.arange(len(truth)), truth] + 1e-12).mean())

    temperature = float(minimize_scalar(loss, bounds=(0.1, 3.0), method="bounded").x)
    chances = _softmax(scores / temperature)
    guess, best = chances.argmax(axis=1), chances.max(axis=1)
    wrong = guess != truth
    answered = names[guess] != OUT_OF_SCOPE
    acting = np.isin(names[guess], list(ACTING))
    threshold = _threshold(best[answered], wrong[answered], ACCEPTED_ERROR)
    return temperature, threshold, max(threshold, _threshold(best[acting], wrong[acting], ACCEPTED_ERROR_ACTING))


def _threshold(confidence: Any, wrong: Any, accepted: float) -> float:
    """The lowest confidence from which on at most the ``accepted`` share is wrong."""
    for threshold in np.arange(0.30, 0.95, 0.01):
        spoken = confidence >= threshold
        if spoken.any() and wrong[spoken].mean() <= accepted:
            return float(threshold)
    return 0.95


def _softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def write(path: Path, utterances: list[Utterance]) -> None:
    """Fit and write ``path`` in one step: a line of JSON, then idf and weights as little-endian floats."""
    temperature, threshold, act_threshold = calibrate(utterances)
    vectorizer, classifier = fit(utterances)
    head = {
        "magic": MAGIC,
        "digest": digest(),
        "intents": [str(name) for name in classifier.classes_],
        "blocks": [list(map(str, block.get_feature_names_out())) for _, block in vectorizer.transformer_list],
        "bias": [float(value) for value in classifier.intercept_],
        "temperature": temperature,
        "threshold": threshold,
        "act_threshold": act_threshold,
    }
    idf = np.concatenate([block.idf_ for _, block in vectorizer.transformer_list])
    numbers = array("f", np.concatenate([idf, classifier.coef_.T.ravel()]).astype("<f4").tobytes())
    if sys.byteorder == "big":
        numbers.byteswap()
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(json.dumps(head).encode() + b"\n" + numbers.tobytes())
    draft.replace(path)


if __name__ == "__main__":
    write(SHIPPED, load())
