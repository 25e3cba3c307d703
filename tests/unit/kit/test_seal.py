"""An envelope opens for its own purpose and key, whole, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.seal import Refused, Seal, place
from services.kit.signature import Signer, Verifier

SEAL = Seal("one secret")
SIGNER = Signer("another secret")
VERIFIER = Verifier(SIGNER.public)
MAKERS = pytest.mark.parametrize(("closes", "opens"), [(SEAL, SEAL), (SIGNER, SIGNER), (SIGNER, VERIFIER)])


@MAKERS
@given(st.text(max_size=20), st.binary(max_size=60), st.floats(0, 1e11))
def test_what_was_closed_opens(closes: Seal, opens: Seal, purpose: str, body: bytes, at: float) -> None:
    found = opens.open(purpose, closes.close(purpose, body, at))
    assert found.body == body and abs(found.at - at) <= 0.001 + at * 1e-12


@MAKERS
@given(st.data())
def test_one_changed_byte_is_refused(closes: Seal, opens: Seal, data: st.DataObject) -> None:
    true = closes.close("p", b'{"a":1}', 12.5)
    at = data.draw(st.integers(0, len(true) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != true[at]))
    with pytest.raises(Refused):
        opens.open("p", true[:at] + bytes([byte]) + true[at + 1 :])


@MAKERS
def test_one_envelope_has_one_spelling(closes: Seal, opens: Seal) -> None:
    """By its text a message is known again: one that is told twice must not look like two."""
    true = closes.close("p", b"x", 1.0)
    version, proof, rest = true.split(b":", 2)
    for other in (proof + b"=", proof + b"!", b"\n" + proof, proof[:-1] + bytes([proof[-1] + 1])):
        with pytest.raises(Refused):
            opens.open("p", b":".join((version, other, rest)))


@MAKERS
@given(st.binary(max_size=80) | st.text(max_size=80))
def test_anything_else_is_refused_and_nothing_worse(closes: Seal, opens: Seal, junk: bytes | str) -> None:
    for text in (junk, b"mc1:" + junk if isinstance(junk, bytes) else f"mc1:{junk}"):
        with pytest.raises(Refused):
            opens.open("p", text)


def test_another_purpose_key_or_kind_does_not_open() -> None:
    sealed, signed = SEAL.close("a", b"x", 1.0), SIGNER.close("a", b"x", 1.0)
    for opens, data in (
        (SEAL, SEAL.close("b", b"x", 1.0)),
        (Seal("a secret of someone else"), sealed),
        (SEAL, signed),
        (VERIFIER, sealed),
        (Verifier(Signer("someone else").public), signed),
        (VERIFIER, SIGNER.close("b", b"x", 1.0)),
    ):
        with pytest.raises(Refused):
            opens.open("a", data)


def test_purpose_and_time_can_not_be_shifted_into_each_other() -> None:
    with pytest.raises(Refused):
        SEAL.open("a:1.000", SEAL.close("a", b"1.000:x", 1.0))
    assert place("name") != place("name", "field") != place("namefield")


@pytest.mark.parametrize("public", ["", "short", "=", "ü" * 43, "A" * 44])
def test_what_is_no_public_key_is_a_value_error(public: str) -> None:
    with pytest.raises(ValueError):
        Verifier(public)
