"""An instance or a key set at an address of our own is never called, whoever was allowed to write it down."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from apps.gateway.core import config
from tests.waiting import until
from tests.wire.gateway import running


def issuer(url: str) -> config.Issuer:
    return config.Issuer("idp", "https://idp.test", "a", ("EdDSA",), url)


@pytest.mark.parametrize("name", ["MC_CONTROL_PORT", "MC_CLICKHOUSE_PORT", "MC_OTLP_HTTP_PORT"])
def test_an_instance_at_a_port_of_our_own_is_502_and_never_asked(tmp_path: Path, redis_url: str, name: str) -> None:
    with running(tmp_path, redis_url) as gateway:
        gateway.processes.upstream(gateway.second_port, "ours")
        process = gateway.process
        assert process is not None
        process.terminate()
        process.wait(10)
        gateway.start(**{name: str(gateway.second_port)})
        gateway.wait_ready()
        assert gateway.get("/open/x").status == 200
        for host in (
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[64:ff9b::7f00:1]",
        ):
            instance = config.Instance("ours", f"http://{host}:{gateway.second_port}")
            gateway.publish(services=gateway.service(instances=(instance,)))
            answer = gateway.get("/open/secret")
            assert (answer.status, answer.failure) == (502, "upstream_address_refused"), host
        gateway.publish(issuers=(issuer(f"http://localhost:{gateway.second_port}/jwks"),))
        until(lambda: "Keys of idp: The address of jwks:idp is not allowed." in gateway.logs(), 10)
        assert gateway.seen(gateway.second_port)["seen"] == {"/seen": 1}, "only by us"


def test_metadata_and_link_local_addresses_are_refused_at_once(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url) as gateway:
        for host in ("169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "0.0.0.0", "[fe80::1]", "224.0.0.1"):  # noqa: S104
            services = gateway.service(instances=(config.Instance("one", f"http://{host}:80"),), connect_timeout=10.0)
            gateway.publish(services=services)
            answer = gateway.get("/open/latest/meta-data")
            assert (answer.status, answer.failure) == (502, "upstream_address_refused"), host


def test_a_gateway_that_is_its_own_upstream_is_no_loop(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url) as gateway:
        itself = config.Instance("one", f"http://127.0.0.1:{gateway.port}")
        gateway.publish(services=gateway.service(instances=(itself,)), routes=_everything(gateway.document.routes))
        assert gateway.get("/open/x").failure == "upstream_address_refused"


def test_loopback_closes_when_others_are_let_in(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url, MC_LOOPBACK_UPSTREAMS="0") as gateway:
        assert gateway.get("/open/x").failure == "upstream_address_refused"


def _everything(routes: tuple[config.Route, ...]) -> tuple[config.Route, ...]:
    return tuple(msgspec.structs.replace(route, strip_prefix=False) for route in routes)
