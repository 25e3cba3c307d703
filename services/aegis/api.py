"""aegis over HTTP: tokens by client credentials (RFC 6749 section 4.4), introspection, keys, metadata.

OAuth errors keep their ``error`` and ``error_description`` members, inside a problem document.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Depends, Request, Response
from opentelemetry import metrics
from pydantic import BaseModel

from services.aegis import store, tokens
from services.aegis.guard import Guard
from services.aegis.keys import KeyRing
from services.aegis.settings import AegisSettings
from services.kit.problem import Problem, Refused
from services.kit.store import Store

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
KEYS_MAX_AGE = 300
MAX_HASHING = 2
MAX_WAITING = 32

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "grant_type": {"type": "string", "enum": ["client_credentials"]},
                        "client_id": {"type": "string"},
                        "client_secret": {"type": "string"},
                        "scope": {"type": "string"},
                        "token": {"type": "string"},
                    },
                }
            }
        },
    }
}


class TokenOut(BaseModel):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str


def _oauth(status: int, error: str, detail: str, retry_after: int | None = None) -> Refused:
    headers = dict(NO_STORE)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="aegis", charset="UTF-8"'
    extra = {"error": error, "error_description": detail}
    return Refused(Problem(status, error, detail, retry_after, extra, headers))


@dataclass(slots=True)
class Door:
    """Authenticates clients: bounded in guesses, in memory and in time."""

    database: Store
    guard: Guard
    hashing: asyncio.Semaphore
    waiting: int = 0

    async def client(self, identity: str, secret: str, address: str) -> store.Client:
        """The client whose secret this is; ``invalid_client`` otherwise, without saying which part was wrong."""
        wait = self.guard.wait(identity, address, time.monotonic())
        if wait > 0:
            raise _oauth(429, "slow_down", "Too many wrong secrets; wait and try again.", math.ceil(wait))
        if self.waiting >= MAX_WAITING:
            raise _oauth(503, "temporarily_unavailable", "Too many clients are signing in; try again.", 1)
        found = await self.database.read(lambda connection: store.find(connection, identity))
        self.waiting += 1
        try:
            async with self.hashing:
                right = await asyncio.to_thread((found or store.NOBODY).knows, secret)
        finally:
            self.waiting -= 1
        if found is None or not right:
            self.guard.failed(identity, address, time.monotonic())
            raise _oauth(401, "invalid_client", "The client id or secret is wrong.")
        self.guard.passed(identity, address)
        return found


async def _fields(request: Request) -> dict[str, str]:
    """The parameters of a form (or, tolerated, a JSON object); each at most once (RFC 6749 section 3.2)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = await request.body()
    if not raw:
        return {}
    try:
        if kind == "application/json":
            found = json.loads(raw)
            if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
                raise ValueError("the body must be an object of texts")
            return found
        if kind != "application/x-www-form-urlencoded":
            raise _oauth(415, "invalid_request", "Send application/x-www-form-urlencoded.")
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=32, errors="strict")
    except (ValueError, RecursionError):
        raise _oauth(400, "invalid_request", "The body can't be read.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _oauth(400, "invalid_request", "A parameter is there twice.")
    return fields


def _credentials(request: Request, fields: dict[str, str]) -> tuple[str, str]:
    """Id and secret, from Basic or from the body but not both (RFC 6749 section 2.3)."""
    header = request.headers.get("authorization", "")
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "basic":
        if "client_secret" in fields:
            raise _oauth(400, "invalid_request", "Give the client's credentials one way, not two.")
        try:
            identity, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise _oauth(401, "invalid_client", "The Basic credentials can't be read.") from None
        if not colon:
            raise _oauth(401, "invalid_client", "The Basic credentials can't be read.")
        identity, secret = unquote_plus(identity), unquote_plus(secret)
    else:
        identity, secret = fields.get("client_id", ""), fields.get("client_secret", "")
    if not identity or not secret:
        raise _oauth(401, "invalid_client", "The client did not give its id and secret.")
    if len(identity) > 128 or len(secret) > store.MAX_SECRET or "\x00" in identity:
        raise _oauth(401, "invalid_client", "The client id or secret is wrong.")
    return identity, secret


def _address(request: Request) -> str:
    """Who knocks: the address that the gateway saw, which is the last one it wrote."""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return forwarded or (request.client.host if request.client else "")


Fields = Annotated[dict[str, str], Depends(_fields)]


def router(settings: AegisSettings, database: Store, keys: KeyRing) -> APIRouter:
    """aegis's addresses."""
    routes = APIRouter(tags=["identity"])
    door = Door(database, Guard(), asyncio.Semaphore(MAX_HASHING))
    issued = metrics.get_meter("services.aegis").create_counter("aegis.tokens", description="Tokens issued.")

    @routes.post("/v1/token", response_model=TokenOut, openapi_extra=_FORM)
    async def token(request: Request, response: Response, fields: Fields) -> dict[str, Any]:
        """An access token for a client's own credentials."""
        kind = fields.get("grant_type", "")
        if not kind:
            raise _oauth(400, "invalid_request", "grant_type is missing.")
        if kind != "client_credentials":
            raise _oauth(400, "unsupported_grant_type", "Only client_credentials is served here.")
        identity, secret = _credentials(request, fields)
        client = await door.client(identity, secret, _address(request))
        scope = tokens.grant(fields.get("scope", ""), client.scopes)
        if scope is None:
            raise _oauth(400, "invalid_scope", f"This client may ask for: {' '.join(client.scopes)}.")
        now = time.time()
        access = tokens.issue(
            keys.signing(now),
            issuer=settings.issuer,
            audience=settings.audience,
            subject=client.id,
            scope=scope,
            now=now,
        )
        issued.add(1, {"client": client.id})
        response.headers.update(NO_STORE)
        return {"access_token": access, "token_type": "Bearer", "expires_in": tokens.LIFETIME, "scope": scope}

    @routes.post("/v1/introspect", openapi_extra=_FORM)
    async def introspect(request: Request, response: Response, fields: Fields) -> dict[str, Any]:
        """Whether a token holds, and what it says (RFC 7662); for authenticated clients."""
        identity, secret = _credentials(request, fields)
        await door.client(identity, secret, _address(request))
        if not fields.get("token"):
            raise _oauth(400, "invalid_request", "token is missing.")
        now = time.time()
        found = tokens.claims(
            fields["token"], keys.published(now), issuer=settings.issuer, audience=settings.audience, now=now
        )
        response.headers.update(NO_STORE)
        return {"active": False} if found is None else {"active": True, "token_type": "Bearer", **found}

    @routes.get("/.well-known/jwks.json")
    async def jwks(response: Response) -> dict[str, Any]:
        """The keys that verify our tokens (RFC 7517)."""
        response.headers["Cache-Control"] = f"public, max-age={KEYS_MAX_AGE}"
        return {"keys": [key.jwk() for key in keys.published(time.time())]}

    @routes.get("/.well-known/oauth-authorization-server")
    @routes.get("/.well-known/openid-configuration", name="openid_configuration")
    async def metadata(response: Response) -> dict[str, Any]:
        """What this issuer does and where (RFC 8414)."""
        response.headers["Cache-Control"] = f"public, max-age={KEYS_MAX_AGE}"
        methods = ["client_secret_basic", "client_secret_post"]
        return {
            "issuer": settings.issuer,
            "token_endpoint": f"{settings.issuer}/v1/token",
            "introspection_endpoint": f"{settings.issuer}/v1/introspect",
            "jwks_uri": f"{settings.issuer}/.well-known/jwks.json",
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": methods,
            "introspection_endpoint_auth_methods_supported": methods,
            "scopes_supported": list(store.DEFAULT_SCOPES),
            "id_token_signing_alg_values_supported": ["EdDSA"],
        }

    return routes
