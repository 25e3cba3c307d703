"""The trained model, held to figures on sentences that it did not learn from."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from services.nexus import train
from services.nexus.corpus import OUT_OF_SCOPE, Utterance, load
from services.nexus.intents import DESCRIPTIONS
from services.nexus.model import SHIPPED, BadModel, Model, digest
from services.nexus.model import load as load_model

TALK = {"greet", "goodbye", "thanks", "help"}


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return load()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]) -> Path:
    path = tmp_path_factory.mktemp("model") / "nexus.bin"
    train.write(path, utterances)
    return path


@pytest.fixture(scope="module")
def model(model_file: Path) -> Model:
    return load_model(model_file)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]) -> tuple[Model, list[Utterance]]:
    """A model of four fifths, and the fifth that it never saw."""
    labels = np.array([utterance.intent for utterance in utterances])
    learn, judge = next(StratifiedShuffleSplit(1, test_size=0.2, random_state=11).split(labels, labels))
    path = tmp_path_factory.mktemp("held-out") / "nexus.bin"
    train.write(path, [utterances[index] for index in learn])
    return load_model(path), [utterances[index] for index in judge]


def test_every_intent_has_forty_utterances_a_description_and_no_duplicate(utterances: list[Utterance]) -> None:
    counts: dict[str, int] = {}
    for utterance in utterances:
        counts[utterance.intent] = counts.get(utterance.intent, 0) + 1
    assert len(counts) - 1 >= 12 and min(counts.values()) >= 40
    assert set(counts) == {*DESCRIPTIONS, OUT_OF_SCOPE}
    texts = [utterance.text.lower() for utterance in utterances]
    assert len(texts) == len(set(texts))


def test_unseen_requests_about_money_are_recognised_and_seldom_mistaken(
    held_out: tuple[Model, list[Utterance]],
) -> None:
    model, sentences = held_out
    about_money = [item for item in sentences if item.intent not in TALK | {OUT_OF_SCOPE}]
    read = [(model.read(item.text).intent, item.intent) for item in about_money]
    assert sum(found == meant for found, meant in read) / len(read) >= 0.80
    spoken = [(model.read(item.text).intent, item.intent) for item in sentences if model.read(item.text).intent]
    assert sum(found != meant for found, meant in spoken) / len(spoken) <= 0.10


def test_unseen_sentences_of_no_concern_are_unknown(held_out: tuple[Model, list[Utterance]]) -> None:
    model, sentences = held_out
    foreign = [item for item in sentences if item.intent == OUT_OF_SCOPE]
    assert sum(model.read(item.text).intent is None for item in foreign) / len(foreign) >= 0.85


def test_money_moves_for_nothing_else(held_out: tuple[Model, list[Utterance]]) -> None:
    """Of the unseen sentences that would act, at most one in fifty means something else."""
    model, sentences = held_out
    acting = [item for item in sentences if model.read(item.text).intent == "send_money"]
    mistaken = [item.text for item in acting if item.intent != "send_money"]
    assert len(acting) >= 5
    assert len(mistaken) <= len(sentences) / 50, mistaken


@pytest.mark.parametrize(
    "text", ["send 25 AZR to thandi", "please transfer fifty euros to Zoë", "SEND 10 AZR TO BOB", "sned 10 azr to bob"]
)
def test_plain_orders_are_sure(model: Model, text: str) -> None:
    reading = model.read(text)
    assert reading.intent == "send_money" and reading.confidence > 0.9


@pytest.mark.parametrize(
    "text", ["what is the weather", "asdf qwer", "book me a flight", "tell me about quantum physics", "?!", "42"]
)
def test_what_is_no_request_of_ours_is_unknown_with_its_three_nearest(model: Model, text: str) -> None:
    reading = model.read(text)
    assert reading.intent is None
    assert len(reading.top) == 3 and all(guess.intent != OUT_OF_SCOPE for guess in reading.top)
    assert [guess.confidence for guess in reading.top] == sorted((g.confidence for g in reading.top), reverse=True)


def test_the_service_computes_what_scikit_learn_computes(model: Model, utterances: list[Utterance]) -> None:
    vectorizer, classifier = train.fit(utterances)
    sentences = [item.text for item in utterances[::9]] + ["entirely unseen wording for 12 AZR", ""]
    scores = classifier.decision_function(vectorizer.transform(sentences))
    for sentence, row in zip(sentences, scores, strict=True):
        mine = model.probabilities(sentence)
        # The temperature scales every distance alike, so it can be read off any pair.
        order = [str(name) for name in classifier.classes_[np.argsort(row)]]
        assert sorted(mine, key=lambda name: mine[name]) == order or np.ptp(row) < 1e-3
        assert abs(sum(mine.values()) - 1) < 1e-9


def test_a_sentence_is_read_in_a_few_milliseconds_at_most(model: Model) -> None:
    longest = "send 25 AZR to thandi and then some more words " * 11
    began = time.perf_counter()
    for _ in range(5):
        model.probabilities(longest[:500])
    assert (time.perf_counter() - began) / 5 < 0.2


@pytest.mark.parametrize("cut", [0, 10, 400, -1])
def test_a_damaged_model_file_is_noticed(model_file: Path, tmp_path: Path, cut: int) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(model_file.read_bytes()[:cut])
    with pytest.raises(BadModel):
        load_model(broken)


def test_the_model_that_ships_was_made_from_the_utterances_that_ship() -> None:
    assert load_model(SHIPPED).intents


def test_utterances_changed_since_are_noticed_and_the_remedy_named(model_file: Path, tmp_path: Path) -> None:
    head, _, numbers = model_file.read_bytes().partition(b"\n")
    other = tmp_path / "other.bin"
    other.write_bytes(head.replace(digest().encode(), b"0" * 16) + b"\n" + numbers)
    with pytest.raises(BadModel, match=r"python -m services\.nexus\.train"):
        load_model(other)
