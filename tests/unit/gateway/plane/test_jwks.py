from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from apps.gateway.core import config
from apps.gateway.core.metrics import Metrics
from apps.gateway.plane.jwks import MAX_KEYS, KeyStore, parse
from apps.lib.addresses import Guard, Policy


def entry(kid: str, **fields: str) -> dict[str, str]:
    public = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key(), as_dict=True)
    return {**public, "kid": kid, "alg": "EdDSA", **fields}


def test_public_signing_keys_are_read_by_id() -> None:
    assert set(parse(json.dumps({"keys": [entry("a"), entry("b", use="sig")]}).encode())) == {"a", "b"}


def test_symmetric_encryption_and_unknown_keys_are_left_out() -> None:
    keys = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s"},
        entry("e", use="enc"),
        {**entry("o"), "key_ops": ["deriveKey"]},
        {"kty": "OKP", "crv": "X", "kid": "x"},
        7,
    ]
    assert parse(json.dumps({"keys": [*keys, entry("good")]}).encode()).keys() == {"good"}


def test_keys_too_weak_to_vouch_are_left_out() -> None:
    sizes = {"weak": 1024, "good": 2048}
    keys = [
        RSAAlgorithm.to_jwk(generate_private_key(65537, size).public_key(), as_dict=True) for size in sizes.values()
    ]
    named = [{**key, "kid": kid} for kid, key in zip(sizes, keys, strict=True)]
    assert parse(json.dumps({"keys": named}).encode()).keys() == {"good"}


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
ENTRIES = st.dictionaries(
    st.sampled_from(["kty", "crv", "alg", "use", "kid", "x", "y", "n", "e", "d", "key_ops"]),
    JSON | st.sampled_from(["OKP", "RSA", "EC", "oct", "Ed25519", "X25519", "P-256", "EdDSA", "none", "HS256", "AQAB"]),
)


@given(st.binary() | st.builds(lambda keys: json.dumps({"keys": keys}).encode(), st.lists(ENTRIES | JSON)))
@example(b"[" * 100_000)
@example(b'{"keys": [{"kty": []}]}')
@example(b'{"keys": [{"kty": "RSA", "alg": "none", "n": "AQAB", "e": "AQAB"}]}')
def test_whatever_an_issuer_publishes_is_keys_or_no_key_set(data: bytes) -> None:
    try:
        assert isinstance(parse(data), dict)
    except ValueError:
        return


def test_keys_on_disk_count_only_for_the_address_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "jwks").mkdir()
    stored = b"http://127.0.0.1:1/old\n" + json.dumps({"keys": [entry("a")]}).encode()
    (tmp_path / "jwks" / "test.jwks").write_bytes(stored)
    issuer = config.Issuer("test", "https://issuer", "us", ("EdDSA",), "http://127.0.0.1:1/old")

    async def known(store: KeyStore, **changes: object) -> set[str]:
        store.configure((msgspec.structs.replace(issuer, **changes),))
        return set(store.sets.get("test", ()))

    async def follow() -> None:
        store = KeyStore(tmp_path, Metrics(), lambda: None, Guard(Policy()))
        assert await known(store) == {"a"}
        assert await known(store, jwks_url="http://127.0.0.1:1/new") == set()
        assert await known(store) == {"a"}
        assert await known(store, enabled=False) == set()

    asyncio.run(follow())


def test_keys_that_come_late_from_an_address_given_up_count_no_more(tmp_path: Path) -> None:
    """The issuer moved, perhaps because the old address had fallen: what is still on its way from there is dropped."""

    async def follow() -> None:
        old_asked, new_asked, release, heard = (asyncio.Event() for _ in range(4))
        body = json.dumps({"keys": [entry("stolen")]}).encode()

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            old_asked.set()
            await release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        async def new(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            new_asked.set()
            writer.close()

        class Waiter:
            def resume(self) -> None:
                heard.set()

        store = KeyStore(tmp_path, Metrics(), lambda: None, Guard(Policy()))
        servers = [await asyncio.start_server(each, "127.0.0.1", 0) for each in (old, new)]
        urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys" for server in servers]
        issuers = [config.Issuer("test", "https://issuer", "us", ("EdDSA",), url) for url in urls]
        store.configure((issuers[0],))
        running = asyncio.create_task(store.run())
        try:
            async with asyncio.timeout(20):
                await old_asked.wait()
                assert store.want(issuers[0], Waiter()), "what is on its way is waited for"
                store.configure((issuers[1],))
                await heard.wait()  # nobody brings that any more
                release.set()
                await new_asked.wait()
                assert not store.sets.get("test")
                assert not (tmp_path / "jwks").exists()
        finally:
            running.cancel()
            for server in servers:
                server.close()

    asyncio.run(follow())


async def test_a_redirect_to_a_key_set_is_not_followed(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        asked.append(path)
        keys = json.dumps({"keys": [entry("a")]}).encode()
        status = b"200 OK" if path == "/keys" else b"302 Found\r\nLocation: /keys"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(keys), keys))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    (tmp_path / "jwks").mkdir()
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    failed, done = asyncio.Event(), asyncio.Event()

    class Heard(Metrics):
        def count(self, metric: str, reason: str = "", by: int = 1) -> None:
            failed.set()

    store = KeyStore(tmp_path, Heard(), done.set, Guard(Policy()))
    fetching = asyncio.create_task(store.run())
    try:
        issuer = config.Issuer("test", "https://issuer", "us", ("EdDSA",), f"{url}/moved")
        store.configure((issuer,))
        async with asyncio.timeout(10):
            await failed.wait()
        assert asked == ["/moved"] and "test" not in store.sets
        store.configure((msgspec.structs.replace(issuer, jwks_url=f"{url}/keys"),))
        async with asyncio.timeout(10):
            await done.wait()
        assert set(store.sets["test"]) == {"a"}
    finally:
        fetching.cancel()
        store.close()
        server.close()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff"])
def test_what_is_no_key_set_is_said_so(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(data)


def test_the_number_of_keys_is_bounded() -> None:
    assert (
        len(parse(json.dumps({"keys": [entry(str(number)) for number in range(MAX_KEYS + 20)]}).encode())) == MAX_KEYS
    )
