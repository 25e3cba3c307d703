from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from apps.gateway.core.balance import Rotation, in_rotation, spread


@dataclass(eq=False)
class Fake:
    name: str
    weight: int = 1
    in_flight: int = 0
    avoid_until: float = 0.0


A, B, C = Fake("a"), Fake("b"), Fake("c")


def rotation(*targets: Fake, method: str = "round_robin") -> Rotation[Fake]:
    return Rotation(targets, method, Random(7).randrange)  # type: ignore[arg-type]


def test_turns_are_even_and_by_weight() -> None:
    heavy = Fake("heavy", weight=3)
    turns = rotation(A, heavy)
    assert Counter(turns.choose(0.0).name for _ in range(40)) == {"a": 10, "heavy": 30}  # type: ignore[union-attr]
    assert [target.name for target in spread((heavy, A, B))] == ["heavy", "a", "heavy", "b", "heavy"]


def test_a_retry_goes_elsewhere_while_there_is_an_elsewhere() -> None:
    turns = rotation(A, B)
    assert {turns.choose(0.0, [A]) for _ in range(5)} == {B}
    assert turns.choose(0.0, [A, B]) in {A, B}
    assert rotation(A).choose(0.0, [A]) is A
    assert rotation().choose(0.0) is None


def test_a_retry_takes_nobodys_turn() -> None:
    turns = rotation(A, B)
    first = turns.choose(0.0)
    assert first is not None
    other = turns.choose(0.0, [first])
    assert turns.choose(0.0) is other


def test_an_instance_lately_out_of_reach_is_asked_last() -> None:
    for method in ("round_robin", "least_request"):
        away = Fake("away", avoid_until=5.0)
        turns = rotation(A, away, method=method)
        assert {turns.choose(1.0) for _ in range(8)} == {A}
        assert turns.choose(1.0, [A]) is away
        assert away in {turns.choose(6.0) for _ in range(20)}


def test_least_request_prefers_the_less_busy_for_its_weight() -> None:
    idle, busy = Fake("idle"), Fake("busy", in_flight=50)
    turns = rotation(idle, busy, method="least_request")
    chosen = Counter(turns.choose(0.0).name for _ in range(1000))  # type: ignore[union-attr]
    assert chosen["idle"] > 700  # busy only when it was drawn twice
    strong = Fake("strong", weight=100, in_flight=50)
    assert Counter(
        rotation(Fake("weak", in_flight=1), strong, method="least_request").choose(0.0).name for _ in range(9)
    )["strong"]  # type: ignore[union-attr]


def test_the_unfit_leave_rotation_until_too_few_are_left_to_believe_it() -> None:
    ten = [Fake(str(number)) for number in range(10)]

    def fit(count: int, of: int, threshold: float = 0.5) -> tuple[int, bool]:
        members, panic = in_rotation(ten[:of], ten[:count].__contains__, threshold)
        return len(members), panic

    assert fit(9, 10) == (9, False)
    assert fit(5, 10) == (5, False)
    assert fit(4, 10) == (10, True)
    assert fit(1, 3) == (1, False), "one fit instance of three serves alone"
    assert fit(1, 2) == (1, False)
    assert [fit(0, of) for of in (1, 2, 3)] == [(1, True), (2, True), (3, True)]
    assert fit(1, 10, threshold=0.0) == (1, False)
    assert fit(0, 10, threshold=0.0) == (10, True)
    assert fit(0, 0) == (0, False), "a service without instances is not in panic"
