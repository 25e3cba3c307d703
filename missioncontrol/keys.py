"""The keys by which our processes believe each other, and what is made of them (docs/decisions/0014-messages.md).

Three circles: whoever holds MC_REVISION_KEY publishes configuration, and whoever has the public key checks it;
MC_WIRE_KEY is between the control plane and its gateways; what stays inside the control plane (tasks, frames of the
live feed) goes under a key that follows from DJANGO_SECRET_KEY, which no gateway has.

``python -m missioncontrol.keys`` prints the public key, for the MC_REVISION_PUBLIC_KEY of gateways elsewhere.
"""

from __future__ import annotations

import sys

from services.kit import env, proof
from services.kit.seal import Seal
from services.kit.signature import signer, verifier

__all__ = ["inner", "signer", "telemetry", "verifier", "wire"]


def wire() -> Seal:
    """Between the control plane and its gateways."""
    return Seal(env.secret("MC_WIRE_KEY"))


def telemetry() -> str:
    """What the exports of our own processes carry."""
    return proof.of(env.secret("MC_WIRE_KEY"))


def inner() -> Seal:
    """Inside the control plane."""
    return Seal("inside the control plane\0" + env.secret("DJANGO_SECRET_KEY"))


def main() -> int:
    """Print the public key."""
    try:
        print(signer().public)
    except env.EnvError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
