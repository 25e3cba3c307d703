"""Names of accounts: their one form, and the guard against two that look alike. Pure but for ``claim``.

A ledger can't take a payment back, so a name that a person could mistake for another's must not open
an account beside it: one script a name (Unicode TS 39 section 5.1), and one account a skeleton
(section 4), by a table that covenant and mint each keep.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from sqlalchemy import Connection, text

from .store import Migration, Tables

NAMES: Final = Tables("names", Migration("CREATE TABLE names (skeleton TEXT PRIMARY KEY, account TEXT NOT NULL)"))
"""Which account was the first to look as its skeleton does."""

_ACCOUNT: Final = re.compile(r"[^\W\d_](?:[^\W\d]|[0-9.'-]){0,62}")
_TWINS: Final = str.maketrans(
    # Cyrillic, then Greek, then signs: each drawn as the Latin letter below it.
    "аеорсухіјѕһԁԛԝкмтвнгпӏ" "αεορντυικχηωγβ" "01_ıſɡɩ",
    "aeopcyxijshdqwkmtbhrnl" "aeopvtuikxnwyb" "ol-isgi",
)  # fmt: skip


class Lookalike(ValueError):
    """The name could be taken for that of another account; the message names both."""


def parse_account(value: str) -> str:
    """An account's name in its one form: NFKC, lower case, one script; ValueError when it can't be a name."""
    name = unicodedata.normalize("NFKC", value).strip().lower()
    if not _ACCOUNT.fullmatch(name):
        raise ValueError(
            "An account name starts with a letter and has letters, digits, '.', '-', '_' or ''' (63 at most)."
        )
    if len({_script(letter) for letter in name if letter.isalpha()}) > 1:
        raise ValueError("An account name has letters of one script: this one mixes several that look alike.")
    return name


def skeleton(name: str) -> str:
    """What ``name`` looks like: the same for names that a person could take for each other."""
    bare = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return bare.translate(_TWINS).replace("rn", "m").replace("vv", "w")


def claim(connection: Connection, name: str) -> None:
    """Let ``name`` have its skeleton, in the caller's transaction; Lookalike when another account has it."""
    look = skeleton(name)
    query = text("SELECT account FROM names WHERE skeleton = :look")
    holder = connection.execute(query, {"look": look}).scalar()
    if holder is None:
        # Two writers may meet here: the first to commit has it, and the other reads that.
        connection.execute(
            text("INSERT INTO names (skeleton, account) VALUES (:look, :name) ON CONFLICT (skeleton) DO NOTHING"),
            {"look": look, "name": name},
        )
        holder = connection.execute(query, {"look": look}).scalar()
    if holder != name:
        raise Lookalike(f"The account name {name} looks like {holder}, which exists already.")


def _script(letter: str) -> str:
    """The first word of the letter's Unicode name, which for letters is the script."""
    return unicodedata.name(letter, "?").partition(" ")[0]
