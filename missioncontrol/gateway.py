"""The gateway process: ``python -m missioncontrol.gateway`` reads the environment and starts the workers.

No Django here. Variables: MC_HOST, MC_GATEWAY_PORT, MC_GATEWAY_WORKERS, MC_TRUSTED_PROXIES (addresses or
CIDR blocks whose forwarding fields are believed), MC_GATEWAY_CONNECTIONS (per worker),
MC_GATEWAY_HANG_SECONDS, MC_GATEWAY_TLS_CERT, MC_GATEWAY_TLS_KEY,
MC_GATEWAY_TLS_CLIENT_CA, REDIS_URL, OTEL_EXPORTER_OTLP_ENDPOINT and ..._HEADERS.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Callable

from pythonjsonlogger.json import JsonFormatter

from apps.gateway.plane import handover
from apps.gateway.plane.gateway import Gateway
from apps.gateway.plane.processes import Parent, listen
from apps.gateway.plane.worker import Settings
from apps.lib.addresses import networks
from missioncontrol import guard, keys
from services.kit import env, proof

VERSION = "0.1.0"


def settings() -> Settings:
    """What the environment says."""
    otlp_url = env.otlp_url()
    try:
        trusted = networks(env.words("MC_TRUSTED_PROXIES"))
    except ValueError as error:
        raise env.EnvError(f"MC_TRUSTED_PROXIES: {error}.") from None
    return Settings(
        home=env.home() / "gateway",
        redis_url=env.redis_url(),
        otlp_url=otlp_url,
        pepper=env.secret("MC_KEY_PEPPER").encode(),
        fleet_token=env.secret("MC_FLEET_TOKEN"),
        version=VERSION,
        wire=keys.wire(),
        revisions=keys.verifier(),
        guard=guard.read(),
        workers=env.integer("MC_GATEWAY_WORKERS", 2, low=1, high=256),
        max_connections=env.integer("MC_GATEWAY_CONNECTIONS", 10_000, low=1),
        trusted_proxies=trusted,
        otlp_headers=(*env.otlp_headers(otlp_url).items(), (proof.FIELD, keys.telemetry())),
        tls=tls(),
    )


def tls() -> ssl.SSLContext | None:
    """TLS toward clients when a certificate is named; mutual when a client CA is, too."""
    certificate = env.text("MC_GATEWAY_TLS_CERT", "")
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, env.text("MC_GATEWAY_TLS_KEY"))
        authority = env.text("MC_GATEWAY_TLS_CLIENT_CA", "")
        if authority:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise env.EnvError(f"The gateway's TLS files can't be used ({error}).") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def main() -> int:
    """Start, serve, stop; the exit code. A setting that can't work is one sentence on stderr.

    ``--check`` ends after the settings were read. The socket may be handed over by LISTEN_FDS (handover.py).
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=env.text("MC_LOG_LEVEL", "INFO"), handlers=[handler])
    host = env.text("MC_HOST", "127.0.0.1")
    try:
        chosen = settings()
        port = env.port("MC_GATEWAY_PORT", 8080)
        hang_s = env.integer("MC_GATEWAY_HANG_SECONDS", 30, low=2)
        if "--check" in sys.argv[1:]:
            return 0
        lock = chosen.home / f"parent-{port}.lock"
        try:
            reign = handover.Reign(lock)
        except OSError as error:
            raise env.EnvError(f"The gateway can't write {lock} ({error.strerror}).") from None
        given = handover.inherited()
        listener = given or listen(host, port)
    except env.EnvError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        reason = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror
        print(f"The gateway can't listen on {host}:{port}: {reason}. Set MC_GATEWAY_PORT to another.", file=sys.stderr)
        return 2

    async def serve(socket_: socket.socket, stop: asyncio.Event, serving: Callable[[], object]) -> None:
        gateway = Gateway(chosen)
        if parent.after_hang:
            gateway.worker.metrics.count("mc.gateway.workers.hung")
        await gateway.serve(socket_, stop, serving)

    argv = [sys.executable, "-m", "missioncontrol.gateway"]
    parent = Parent(listener, chosen.workers, serve, reign, argv, kept=given is not None, hang_s=hang_s)
    return parent.run()


if __name__ == "__main__":
    sys.exit(main())
