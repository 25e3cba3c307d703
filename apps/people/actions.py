"""What begins and ends a token's life."""

from __future__ import annotations

import hashlib
import logging
import secrets
import string
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from apps.lib import clock, database
from apps.lib.roles import RANK, Grant, held, rank
from apps.people.models import ApiToken, live
from services.kit.problem import Problem, Refused

LETTERS = string.ascii_letters + string.digits
DEFAULT_LIFE = timedelta(days=90)
LONGEST_LIFE = timedelta(days=366)
MOST = 50
"""Live tokens of one person."""
KEPT = timedelta(days=90)
"""How long a token that ended stays listed."""
USE_S = 60.0
"""Seconds between two notes of a token's use: reading must not become writing."""

PASSWORD_CHANGED = "the password changed"  # noqa: S105 - a reason
DEACTIVATED = "the user was deactivated"

log = logging.getLogger(__name__)


def digest_of(token: str) -> str:
    """All of a token that is kept. Its 190 random bits need neither salt nor a slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_token() -> str:
    """A new token, ``mct_<prefix>_<secret>``: the prefix names it in lists and logs."""
    secret = "".join(secrets.choice(LETTERS) for _ in range(32))
    return f"mct_{secrets.token_hex(4)}_{secret}"


def issue(
    user: Any, name: str, expires_at: datetime | None = None, *, grant: Grant | None = None, by: ApiToken | None = None
) -> tuple[ApiToken, str]:
    """A token for ``user``: the row, and the token itself, which nothing can tell again.

    Without a grant it may do what its owner may. ``by`` is the token that asks for it, if one does:
    what it makes can do no more and lasts no longer than itself. Refused when ``user`` or ``by``
    could not do that much, or there are too many.
    """
    now = timezone.now()
    expires_at = expires_at or now + DEFAULT_LIFE
    if by is not None:
        expires_at = min(expires_at, by.expires_at)
    grant = grant or Grant(held(user))
    if RANK[grant.role] > rank(user):
        raise refused(f"You are no {grant.role}: a token can do no more than its owner.")
    if by is not None and not by.grant.covers(grant):
        raise refused("A token makes only tokens that can do no more than itself.")
    with transaction.atomic():
        mine = ApiToken.objects.filter(user=user)
        mine.filter(Q(ended_at__lt=now - KEPT) | Q(expires_at__lt=now - KEPT)).delete()
        if mine.filter(live(now)).count() >= MOST:
            raise Refused(Problem(409, "too_many_tokens", f"You have {MOST} live tokens; end one first."))
        token = make_token()
        row = ApiToken.objects.create(
            user=user,
            name=name,
            prefix=token.split("_")[1],
            digest=digest_of(token),
            role=grant.role,
            read_only=grant.read_only,
            areas=sorted(grant.areas),
            expires_at=expires_at,
        )
    return row, token


def refused(detail: str) -> Refused:
    """403: more was asked than the owner, or the token that asks, may do."""
    return Refused(Problem(403, "beyond_token", detail))


def end(rows: Any, why: str) -> int:
    """End those of ``rows`` that live, one by one for the audit trail; how many."""
    ended = 0
    with transaction.atomic():
        for row in rows.filter(ended_at=None):
            row.ended_at, row.ended_why = timezone.now(), why
            row.save(update_fields=["ended_at", "ended_why"])
            ended += 1
    return ended


def after_user_change(sender: Any, instance: Any, **_: Any) -> None:
    """Django's ``post_save`` of a user: who may not log in has no tokens either, and won't get them back."""
    if not instance.is_active:
        end(ApiToken.objects.filter(user=instance), DEACTIVATED)


class PasswordEndsTokens:
    """A password validator, for its second method: Django calls it whenever a new password has been saved.

    A hash that Django only makes anew, because its own defaults grew, is no new password and ends nothing.
    """

    def validate(self, password: str, user: Any = None) -> None:
        """Every password will do."""

    def get_help_text(self) -> str:
        """Shown where a password is changed."""
        return "Your API tokens end with the password."

    def password_changed(self, password: str, user: Any = None) -> None:
        """Whoever knew the old password may have made tokens with it."""
        if user is not None and user.pk is not None:
            end(ApiToken.objects.filter(user=user), PASSWORD_CHANGED)


class Uses:
    """When each token was last seen by this process, so that a use is written once a minute."""

    def __init__(self, most: int = 10_000) -> None:
        self._noted: OrderedDict[int, float] = OrderedDict()
        self._most = most

    def due(self, pk: int, now: float) -> bool:
        """Whether this use is to be written; then the next minute's are not."""
        if now - self._noted.get(pk, float("-inf")) < USE_S:
            return False
        self._noted[pk] = now
        self._noted.move_to_end(pk)
        while len(self._noted) > self._most:
            self._noted.popitem(last=False)
        return True


_uses = Uses()


def note_use(row: ApiToken) -> None:
    """``row`` opened something. A database that can't be written now costs the note, not the request."""
    if not _uses.due(row.pk, clock.monotonic()):
        return
    try:
        with transaction.atomic():
            ApiToken.objects.filter(pk=row.pk).update(last_used_at=timezone.now())
    except DatabaseError as error:
        if database.away(error) is None:
            raise
        log.warning("The use of token %s could not be noted: %s", row.prefix, error)


def is_live(token: str, user: Any) -> bool:
    """Whether ``token`` opens something as ``user``."""
    return bool(token) and ApiToken.objects.filter(live(timezone.now()), user=user, digest=digest_of(token)).exists()
