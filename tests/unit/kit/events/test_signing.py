"""Signatures of events: what every binding leaves of them, and what everybody may try with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pamqp import decode as amqp_decode
from pamqp import encode as amqp_encode

from services.kit.events.cloudevent import (
    CORE,
    KEY,
    LAST_TIME,
    OURS,
    PROOF,
    CloudEvent,
    EventError,
    attributes,
    check_data,
    decode,
    encode,
)
from services.kit.events.signing import CONTROL, BadKey, Key, NoKey, Ring, canonical, sign
from services.kit.events.transport.base import Rejected, Wanted
from services.kit.events.transport.bindings import CONTENT_TYPE, binary, unbound

COVENANT, MINT, MISSION = "a" * 48, "b" * 48, "c" * 48
RING = Ring.of([("covenant", COVENANT), ("mint", MINT), (CONTROL, MISSION)])
ALL = Wanted(["#"], ())


def event(**fields: Any) -> CloudEvent:
    given = {
        "id": "e1",
        "type": "business.transaction.recorded",
        "source": "covenant",
        "time": 1_700_000_000.25,
        "data": {"amount": "25.00", "to": "till", "notes": [1, 2.5, None, True]},
        "partition_key": "ledger",
        "sequence": 7,
    }
    return CloudEvent(**(given | fields))


def true(**fields: Any) -> CloudEvent:
    return RING.sign(event(**fields), "covenant")


# -- what bindings leave of it ---------------------------------------------------------------------


def redis_stream(one: CloudEvent) -> CloudEvent | None:
    return decode(encode(one))


def kafka(one: CloudEvent) -> CloudEvent | None:
    named, body = binary(one)
    headers = [("content-type", named.pop(CONTENT_TYPE).encode())]
    headers += [(f"ce_{name}", value.encode()) for name, value in named.items()]
    read = [(name, value.decode()) for name, value in headers]
    found = unbound(read, "ce_", read[0][1], body, ALL, one.partition_key)
    assert found is not None and found[0] is not None, found
    return found[0]


def rabbitmq(one: CloudEvent) -> CloudEvent | None:
    named, body = binary(one)
    content_type = named.pop(CONTENT_TYPE)
    table = amqp_encode.field_table({f"ce-{name}": value for name, value in named.items()})
    _, headers = amqp_decode.field_table(table)
    found = unbound(headers.items(), "ce-", content_type, body, ALL)
    assert found is not None and found[0] is not None, found
    return found[0]


def bridge(one: CloudEvent) -> CloudEvent | None:
    """Somebody's program that reads it and writes it on, with members in its own order, escapes and white space."""
    said = json.loads(encode(one))
    return decode(json.dumps(said, sort_keys=True, indent=1, ensure_ascii=True))


WAYS = [redis_stream, kafka, rabbitmq, bridge]

words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=40)
names = st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True).filter(lambda name: name not in CORE | OURS | {KEY, PROOF})
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
events = st.builds(
    CloudEvent,
    id=words.filter(bool),
    type=st.just("business.transaction.recorded"),
    source=st.just("covenant"),
    time=st.floats(0, LAST_TIME - 1) | st.just(0.0),
    data=values,
    subject=words,
    partition_key=words,
    sequence=st.integers(0, 2**63 - 1),
    correlation_id=words,
    traceparent=words,
    datacontenttype=st.sampled_from(["application/json", "application/json; charset=utf-8", "application/x+json", ""]),
    dataschema=words,
    extensions=st.dictionaries(names, words | st.booleans() | st.integers(-(2**31), 2**31 - 1), max_size=4),
)


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None)
@given(one=events)
def test_a_proof_outlives_every_binding(way: Callable[[CloudEvent], CloudEvent | None], one: CloudEvent) -> None:
    try:
        check_data(one.data)
    except EventError:
        assume(False)  # nothing that is published
    if one.extensions.keys() & CORE:
        assume(False)
    arrived = way(RING.sign(one, "covenant"))
    assert arrived is not None and RING.refusal(arrived) == ""
    # And over another, as when it is read on Kafka and written to Redis.
    for other in WAYS:
        again = other(arrived)
        assert again is not None and RING.refusal(again) == ""


@settings(deadline=None)
@given(one=events, changed=st.sampled_from(["id", "data", "subject", "partition_key", "sequence", "time", "extension"]))
def test_whatever_is_changed_is_noticed(one: CloudEvent, changed: str) -> None:
    try:
        check_data(one.data)
    except EventError:
        assume(False)
    signed = RING.sign(one, "covenant")
    if changed == "extension":
        other = replace(signed, extensions={**signed.extensions, "added": "x"})
    elif changed == "time":
        other = replace(signed, time=signed.time + 1)
    elif changed == "sequence":
        other = replace(signed, sequence=signed.sequence + 1)
    elif changed == "data":
        other = replace(signed, data=[signed.data])
    else:
        other = replace(signed, **{changed: getattr(signed, changed) + "x"})
    assume("added" not in one.extensions)
    assert RING.refusal(signed) == "" and "not that of covenant" in RING.refusal(other)


def test_the_canonical_form_is_what_the_words_say() -> None:
    """So that another program, in another language, can make a proof."""
    one = event(extensions={"flag": True, "count": 3, "name": "é"})
    signed = sign(one, Key.of("covenant", COVENANT))
    id_of = hmac.new(COVENANT.encode(), b"mission-control event key\ncovenant", "sha256").hexdigest()[:16]
    attributes = {
        "specversion": "1.0", "id": "e1", "type": one.type, "source": "covenant", "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json", "partitionkey": "ledger", "sequence": "7", "mckey": id_of,
        "flag": "true", "count": "3", "name": "é",
    }  # fmt: skip

    def tight(what: Any) -> bytes:
        return json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    form = b"mission-control event 1\n" + tight(sorted(attributes.items())) + b"\n" + tight(one.data)
    assert canonical(signed) == form
    digest = hmac.new(COVENANT.encode(), form, hashlib.sha256).digest()
    assert signed.extensions[PROOF] == base64.urlsafe_b64encode(digest).decode().rstrip("=")


# -- what somebody may try -------------------------------------------------------------------------


def test_an_event_without_a_signature_is_refused() -> None:
    assert RING.refusal(event()) == "It says to be of covenant, and is not signed."


@pytest.mark.parametrize("left", [KEY, PROOF])
def test_half_a_signature_is_none(left: str) -> None:
    half = replace(true(), extensions={left: true().extensions[left]})
    assert "not whole" in RING.refusal(half)


@pytest.mark.parametrize("odd", [1, True, 0, False])
@pytest.mark.parametrize("name", [KEY, PROOF])
def test_a_signature_that_is_no_text_is_none(name: str, odd: Any) -> None:
    assert "not whole" in RING.refusal(replace(true(), extensions={**true().extensions, name: odd}))


@pytest.mark.parametrize("proof", ["", "=", "x" * 43, "ß", "\N{SNOWMAN}" * 200])
def test_a_proof_of_any_form_is_refused(proof: str) -> None:
    assert "not that of" in RING.refusal(replace(true(), extensions={**true().extensions, PROOF: proof}))


def test_a_key_speaks_for_its_own_source_alone() -> None:
    forged = sign(event(), Key.of("mint", MINT))
    assert RING.refusal(forged) == "It says to be of covenant, and is signed by the key of mint."
    # Nor for Mission Control, nor Mission Control for those that have a key.
    assert "the key of mint" in RING.refusal(sign(event(source=CONTROL), Key.of("mint", MINT)))
    assert "the key of mission-control" in RING.refusal(sign(event(), Key.of(CONTROL, MISSION)))
    assert RING.refusal(sign(event(source=CONTROL), Key.of(CONTROL, MISSION))) == ""


def test_mission_control_vouches_for_the_clients_of_its_api_alone() -> None:
    mission = Key.of(CONTROL, MISSION)
    assert RING.refusal(sign(event(source="client/ann/shop"), mission)) == ""
    assert "key of mint" in RING.refusal(sign(event(source="client/ann"), Key.of("mint", MINT)))
    for source in ("orders", "https://shop.example", "client", "clients/ann", "Client/ann", " client/ann"):
        assert "key of mission-control" in RING.refusal(sign(event(source=source), mission))
    # A reader that has no key of covenant's is told nothing in its name.
    assert "key of mission-control" in Ring.of([(CONTROL, MISSION)]).refusal(sign(event(), mission))
    # Nor in that of a client that signs by itself.
    own = Ring.of([(CONTROL, MISSION), ("client/ann", "d" * 48)])
    assert own.refusal(sign(event(source="client/ann"), mission))
    assert own.refusal(sign(event(source="client/bob"), mission)) == ""


def test_another_keys_name_does_not_help() -> None:
    """The name is under the proof, and the same secret is another key for another source."""
    signed = true()
    renamed = replace(signed, extensions={**signed.extensions, KEY: Key.of("mint", MINT).id})
    assert "the key of mint" in RING.refusal(renamed)
    assert "not known here" in RING.refusal(replace(signed, extensions={**signed.extensions, KEY: "0" * 16}))
    assert Key.of("mint", COVENANT).id != Key.of("covenant", COVENANT).id


def test_a_refusal_is_of_bounded_length_whatever_it_quotes() -> None:
    assert len(RING.refusal(replace(true(), extensions={KEY: "x" * 256, PROOF: "y"}))) < 200


def test_what_a_handler_gets_is_what_was_proven_whatever_stands_twice() -> None:
    """A member that stands twice is read once; the proof is over what was read."""
    raw = encode(true())
    twice = raw.replace(b'"amount":"25.00"', b'"amount":"9999.00","amount":"25.00"')
    assert twice != raw and RING.refusal(decode(twice)) == "" and decode(twice).data == event().data
    other = raw.replace(b'"amount":"25.00"', b'"amount":"25.00","amount":"9999.00"')
    assert "not that of covenant" in RING.refusal(decode(other))
    source = raw[:-1] + b',"source":"mint"}'
    assert "signed by the key of covenant" in RING.refusal(decode(source))


def test_what_stands_twice_among_headers_is_read_once() -> None:
    named, body = binary(true())
    headers = [(f"ce_{name}", value) for name, value in named.items()]
    found = unbound([*headers, ("CE_ID", "e2")], "ce_", "application/json", body, ALL)
    assert found is not None and found[0] is not None and found[0].id == "e2" and RING.refusal(found[0])


def test_a_key_of_the_message_that_the_event_does_not_have_is_noticed() -> None:
    """Kafka's record has a key of its own, which a reader takes for the partition key."""
    named, body = binary(true(partition_key=""))
    headers = [(f"ce_{name}", value) for name, value in named.items()]
    found = unbound(headers, "ce_", "application/json", body, ALL, "somebody's")
    assert found is not None and found[0] is not None and "not that of" in RING.refusal(found[0])


def test_an_event_can_not_grow_into_another() -> None:
    """No two events have one form: an attribute can't be mistaken for two, nor data for attributes."""
    forms = {
        canonical(event(subject='a","b')), canonical(event(subject="a", extensions={"b": ""})),
        canonical(event(subject="a", data='b"]]\n1')), canonical(event(subject="a", data=["b"])),
        canonical(event(subject="", data="a")), canonical(event(data={"a": 1})), canonical(event(data={"a": "1"})),
    }  # fmt: skip
    assert len(forms) == 7


def deep(levels: int) -> CloudEvent:
    raw = encode(true(data=0))
    return decode(raw.replace(b'"data":0', b'"data":' + b"[" * levels + b"]" * levels))


def test_data_that_is_too_deep_to_be_written_ends_nothing() -> None:
    def from_below(frames: int) -> str:
        return RING.refusal(one) if not frames else from_below(frames - 1)

    one = deep(800)
    assert "can't be written as it was read" in from_below(300)


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00"]
)
def test_a_time_that_could_not_be_written_again_is_not_read(time: str) -> None:
    raw = json.dumps({"specversion": "1.0", "id": "1", "type": "a.b.c", "source": "s", "time": time})
    with pytest.raises(EventError, match="RFC 3339"):
        decode(raw)


# -- keys ------------------------------------------------------------------------------------------


def test_the_newest_key_signs_and_the_one_before_it_still_verifies() -> None:
    old, new = "o" * 40, "n" * 40
    before = Ring.of([("covenant", old)])
    during = Ring.of([("covenant", new), ("covenant", old)])
    after = Ring.of([("covenant", new)])
    first, second = before.sign(event(), "covenant"), during.sign(event(), "covenant")
    assert during.refusal(first) == during.refusal(second) == after.refusal(second) == ""
    assert "not known here" in after.refusal(first) and "not known here" in before.refusal(second)


def test_signing_again_leaves_one_signature() -> None:
    again = RING.sign(RING.sign(event(source=CONTROL), "mint"), CONTROL)
    assert RING.refusal(again) == "" and again == RING.sign(event(source=CONTROL), CONTROL)


def test_without_a_key_nothing_is_signed_and_without_any_nothing_can_be_told() -> None:
    with pytest.raises(NoKey, match="of nexus"):
        RING.sign(event(), "nexus")
    assert Ring({}).usable() and not RING.usable()
    assert Ring({}).refusal(true())


def test_named_sources_may_be_believed_unsigned_and_no_others() -> None:
    ring = Ring.of([("covenant", COVENANT)], ["legacy"])
    assert ring.refusal(event(source="legacy")) == "" and not ring.usable()
    assert ring.refusal(event(source="legacy2")) and ring.refusal(event())
    # Once it says that it is signed, it has to be.
    assert ring.refusal(replace(event(source="legacy"), extensions={KEY: "0" * 16, PROOF: "x"}))


@pytest.mark.parametrize("name", ["covenant", CONTROL])
def test_who_signs_is_never_believed_unsigned(name: str) -> None:
    with pytest.raises(BadKey, match=f"{name} can't be believed"):
        Ring.of([("covenant", COVENANT)], [name])


@pytest.mark.parametrize(("source", "secret"), [("", "x" * 40), ("covenant", ""), ("covenant", "x" * 31)])
def test_a_key_that_proves_nothing_is_none(source: str, secret: str) -> None:
    with pytest.raises(BadKey):
        Key.of(source, secret)


def test_a_secret_is_not_shown() -> None:
    assert COVENANT not in repr(Key.of("covenant", COVENANT)) and COVENANT not in repr(RING)


def test_an_event_too_large_for_its_signature_is_the_brokers_to_refuse() -> None:
    with pytest.raises(Rejected):
        binary(true(data="x" * (1024 * 1024 + 64 * 1024)))


SAID = ["subject", "partition_key", "correlation_id", "causation_id", "traceparent", "datacontenttype", "dataschema"]


@given(st.sampled_from([{}, {KEY: "k"}, {KEY: "k", PROOF: "p"}, {KEY: ""}, {KEY: True}, {PROOF: "p"}]), st.data())
def test_the_form_of_the_usual_event_is_that_of_any(extensions: dict[str, Any], data: st.DataObject) -> None:
    said = {name: data.draw(st.sampled_from(["", "x", 'ü"']), name) for name in SAID}
    one = event(**said, sequence=data.draw(st.sampled_from([0, 7])), extensions=extensions)
    pairs = attributes(one)
    pairs.pop(PROOF, None)
    pairs["datacontenttype"] = pairs["datacontenttype"] or "application/json"
    assert json.loads(canonical(one).split(b"\n")[1]) == [list(pair) for pair in sorted(pairs.items())]
