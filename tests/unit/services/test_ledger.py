from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.covenant.ledger import GENESIS, Draft, Entry, Fault, hash_of, seal, verify

NAMES = st.text("abcdefgh", min_size=1, max_size=8)
DRAFTS = st.builds(
    Draft,
    sender=NAMES,
    recipient=NAMES,
    amount=st.integers(1, 10**14 - 1),
    currency=st.sampled_from(["AZR", "USD"]),
    memo=st.text(max_size=20),
    recorded_by=NAMES,
)


def chain(drafts: list[Draft]) -> list[Entry]:
    entries: list[Entry] = []
    previous = GENESIS
    for height, draft in enumerate(drafts, 1):
        entry = seal(
            draft, height=height, id=f"id-{height}", recorded_at="2026-01-01T00:00:00Z", previous_hash=previous
        )
        entries.append(entry)
        previous = entry.hash
    return entries


def test_a_hash_can_be_recomputed_from_the_public_form_alone() -> None:
    """The recipe of docs/services.md, written out without the code under test."""
    entry = chain([Draft("demo", "zoë", 2500, "AZR", 'lunch "at" noon\n', "nexus")])[0]
    public = entry.public()
    claimed = public.pop("hash")
    recipe = json.dumps(public, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    assert claimed == hashlib.sha256(recipe).hexdigest()
    assert public["previous_hash"] == GENESIS and public["amount"] == "25.00"


@given(st.lists(DRAFTS, max_size=8))
def test_an_untouched_chain_holds(drafts: list[Draft]) -> None:
    entries = chain(drafts)
    last, newest, fault = verify(entries)
    assert fault is None and last == len(entries)
    assert newest == (entries[-1].hash if entries else GENESIS)


@given(st.lists(DRAFTS, min_size=1, max_size=6), st.data())
def test_any_change_to_any_member_of_any_entry_is_found_at_its_height(drafts: list[Draft], data: Any) -> None:
    entries = chain(drafts)
    index = data.draw(st.integers(0, len(entries) - 1))
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(Entry)]))
    value = getattr(entries[index], name)
    entries[index] = dataclasses.replace(entries[index], **{name: value + 1 if isinstance(value, int) else value + "x"})
    last, _, fault = verify(entries)
    assert fault is not None and last == index
    assert fault.height == index + 1


@given(st.lists(DRAFTS, min_size=2, max_size=6), st.data())
def test_a_missing_entry_is_named(drafts: list[Draft], data: Any) -> None:
    entries = chain(drafts)
    gone = data.draw(st.integers(0, len(entries) - 2))
    del entries[gone]
    assert verify(entries)[2] == Fault(gone + 1, "the entry is missing")


@given(st.lists(DRAFTS, min_size=2, max_size=5), st.data())
def test_resealing_a_changed_entry_breaks_the_one_above_it(drafts: list[Draft], data: Any) -> None:
    entries = chain(drafts)
    index = data.draw(st.integers(0, len(entries) - 2))
    forged = dataclasses.replace(entries[index], amount=entries[index].amount + 1)
    entries[index] = dataclasses.replace(forged, hash=hash_of(forged))
    fault = verify(entries)[2]
    assert fault is not None and fault.height == index + 2


def test_a_part_of_the_chain_is_verified_from_a_known_hash() -> None:
    entries = chain([Draft("a", "b", 1, "AZR", "", "t")] * 5)
    assert verify(entries[2:], height=2, previous_hash=entries[1].hash)[2] is None
    assert verify(entries[2:], height=2, previous_hash=GENESIS)[2] is not None
