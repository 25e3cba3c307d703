"""Certificates for tests, made when they are asked for: an authority of its own, and what it or nobody signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; its own is ``file``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self._write(name, self._key, self._sign(self._name, self._key, ("localhost",), 1, authority=True))

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, made: x509.Certificate) -> Path:
        file = self._folder / f"{name}.pem"
        file.write_bytes(made.public_bytes(Encoding.PEM))
        secret = self._folder / f"{name}.key"
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return file

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...], hours: int, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 48 * HOUR)
            .not_valid_after(now + hours * HOUR)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), True)
            .sign(self._key, hashes.SHA256())
        )

    def sign(self, name: str, *hosts: str, hours: int = 1) -> Pair:
        """A certificate for ``hosts`` (default: this machine's loopback) that ends in so many hours."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._sign(subject, key, hosts or ("127.0.0.1", "localhost"), hours, authority=False)
        return Pair(self._write(name, key, made), self._folder / f"{name}.key")
