"""TLS toward clients is one setting away, and so is asking them for a certificate."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.waiting import until
from tests.wire.gateway import Gateway


def certificate(
    folder: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate and key as ``<name>.pem`` and ``<name>.key``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made, key


def ask(gateway: Gateway, context: ssl.SSLContext, path: str) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := secure.recv(65_536):
            answer += data
        return answer


def test_tls_and_mutual_tls(tmp_path: Path, redis_url: str) -> None:
    authority = certificate(tmp_path, "authority")
    certificate(tmp_path, "server", authority)
    certificate(tmp_path, "client", authority)
    gateway = Gateway(tmp_path, redis_url)
    gateway.answers = lambda: True  # type: ignore[method-assign]
    try:
        gateway.processes.upstream(gateway.upstream_port)
        gateway.publish()
        env = {"MC_GATEWAY_TLS_CERT": str(tmp_path / "server.pem"), "MC_GATEWAY_TLS_KEY": str(tmp_path / "server.key")}
        gateway.start(**env, MC_GATEWAY_TLS_CLIENT_CA=str(tmp_path / "authority.pem"))
        stranger = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
        known = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
        known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        until(lambda: b"200 OK" in ask(gateway, known, "/open/x"), 10)
        assert b'["x-forwarded-proto", "https"]' in ask(gateway, known, "/open/echo")
        assert ask(gateway, known, "/open/bytes/3000000").endswith(b"x" * 1000)
        try:
            refused = ask(gateway, stranger, "/open/x")
        except (ssl.SSLError, ConnectionError):
            refused = b""  # TLS 1.3 refuses after the client's own handshake is done: as an alert, or as an end
        assert refused == b""
    finally:
        gateway.processes.stop()


def test_a_certificate_that_is_not_there_is_one_sentence(tmp_path: Path, redis_url: str) -> None:
    gateway = Gateway(tmp_path, redis_url)
    gateway.answers = lambda: True  # type: ignore[method-assign]
    gateway.start(MC_GATEWAY_TLS_CERT="/nowhere.pem", MC_GATEWAY_TLS_KEY="/nowhere.key")
    assert gateway.process is not None and gateway.process.wait(10) == 2
    assert gateway.logs().startswith("The gateway's TLS files can't be used")
