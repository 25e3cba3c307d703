"""How REST writes: one transaction with its audit entry and its idempotency record.

Knows HTTP's side of a write; what is written is the viewset's business.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone
from rest_framework import exceptions
from rest_framework.permissions import SAFE_METHODS
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from apps.lib.conditional import Conditional
from apps.lib.models import IdempotentWrite
from apps.lib.rest import name_the_actor
from services.kit.problem import Problem, Refused

KEPT = timedelta(hours=24)
LONGEST_KEY = 255


class ChangeRefused(Exception):
    """The change does not hold together with the rest: roll back. ``field`` is where to say so, if known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message, self.field = message, field


class AtomicWrites(Conditional):
    """Mixin of API views: every unsafe request is one transaction, and ``Idempotency-Key`` makes a repeat harmless.

    The same key with the same body and query gives the first answer again for a day; with another one it is
    refused (422). Only what succeeded is remembered: a refused write changed nothing and may be tried again.
    ``If-Match`` is honoured, as Conditional says.
    """

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """After authentication and permission, and before the handler is looked up on ``self``."""
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        method = request.method.lower()
        handler = getattr(self, method, None)
        if request.method not in SAFE_METHODS and handler is not None:
            setattr(self, method, self._as_one(handler))

    def _as_one(self, handler: Callable[..., Response]) -> Callable[..., Response]:
        def run(request: Any, *args: Any, **kwargs: Any) -> Response:
            name_the_actor(request.user)
            try:
                with transaction.atomic():
                    response = self._once(handler, request, *args, **kwargs)
            except ChangeRefused as refused:
                raise exceptions.ValidationError({refused.field or "non_field_errors": [refused.message]}) from None
            except ProtectedError:
                raise
            except IntegrityError:
                raise Refused(
                    Problem(409, "conflict", "Another change got there first; read what is there and try again.")
                ) from None
            return response

        return run

    def _once(self, handler: Callable[..., Response], request: Any, *args: Any, **kwargs: Any) -> Response:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return handler(request, *args, **kwargs)
        if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
            raise exceptions.ValidationError(
                {"Idempotency-Key": [f"Send 1 to {LONGEST_KEY} printable characters, such as a UUID."]}
            )
        IdempotentWrite.objects.filter(created_at__lt=timezone.now() - KEPT).delete()
        digest = _sha256(str(request.user.pk), request.method, request.path, key)
        query = request.META.get("QUERY_STRING", "")
        fingerprint = _sha256(json.dumps(request.data, sort_keys=True), *([query] if query else []))
        # A second request with the same key waits here for the first one's transaction.
        record, new = IdempotentWrite.objects.get_or_create(digest=digest, defaults={"fingerprint": fingerprint})
        if not new:
            return _replay(record, fingerprint, key)
        response = handler(request, *args, **kwargs)
        record.status = response.status_code
        record.answer = _cipher(key).encrypt(JSONRenderer().render(response.data)).decode()
        record.save()
        return response


def _replay(record: IdempotentWrite, fingerprint: str, key: str) -> Response:
    if record.fingerprint != fingerprint:
        raise Refused(
            Problem(
                422, "idempotency_key_reused", "This Idempotency-Key was used with another request; send a new key."
            )
        )
    data = json.loads(_cipher(key).decrypt(record.answer.encode()) or b"null")
    return Response(data, status=record.status, headers={"Idempotent-Replayed": "true"})


def _cipher(key: str) -> Fernet:
    secret = hmac.new(settings.SECRET_KEY.encode(), b"idempotent-write:" + key.encode(), hashlib.sha256).digest()
    return Fernet(base64.urlsafe_b64encode(secret))


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
