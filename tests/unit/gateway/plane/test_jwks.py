from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from apps.gateway.plane.jwks import MAX_KEYS, parse


def entry(kid: str, **fields: str) -> dict[str, str]:
    public = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key(), as_dict=True)
    return {**public, "kid": kid, "alg": "EdDSA", **fields}


def test_public_signing_keys_are_read_by_id() -> None:
    assert set(parse(json.dumps({"keys": [entry("a"), entry("b", use="sig")]}).encode())) == {"a", "b"}


def test_symmetric_encryption_and_unknown_keys_are_left_out() -> None:
    keys = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s"},
        entry("e", use="enc"),
        {"kty": "OKP", "crv": "X", "kid": "x"},
        7,
    ]
    assert parse(json.dumps({"keys": [*keys, entry("good")]}).encode()).keys() == {"good"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff"])
def test_what_is_no_key_set_is_said_so(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(data)


def test_the_number_of_keys_is_bounded() -> None:
    assert (
        len(parse(json.dumps({"keys": [entry(str(number)) for number in range(MAX_KEYS + 20)]}).encode())) == MAX_KEYS
    )
