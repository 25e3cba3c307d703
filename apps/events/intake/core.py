"""What may come in by REST, and as whose: from one JSON object to a draft, or to the reason why not. No I/O.

A draft is a CloudEvent of which only the type must be said; a CloudEvent is taken as its publisher gave it. Either way
the source is the publisher's own: nobody speaks as Mission Control, as a service or as another login.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from apps.events.letters.models import REPLAY
from apps.events.models import MAX_EVENT_STREAM, Event
from apps.events.storing import Draft
from services.kit.events import cloudevent, schema, signing
from services.kit.events.cloudevent import CloudEvent, EventError
from services.kit.problem import Problem, Refused

RESERVED: Final = frozenset({"control"})
"""Domains in which Mission Control and its consumers alone speak."""
DRAFT: Final = frozenset(
    {"type", "data", "id", "source", "subject", "time", "partitionkey", "correlationid", "causationid", "traceparent"}
    | {"dataschema", "schema_version", "tags"}
)
PUT_ON: Final = frozenset({signing.KEY, signing.PROOF, REPLAY})
"""Attributes that nobody but Mission Control puts on."""
TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
AHEAD_S: Final = 3600.0
"""How far a publisher's clock may be before ours."""
DAY_S: Final = 86_400.0


def own_source(login: str) -> str:
    """The source of who publishes by REST under ``login``: a URI reference (CloudEvents section 3.1.1)."""
    return f"client/{quote(login, safe='@.+-_')}"


def read(item: Any, login: str, now: float, keep_days: int, *, whole: bool) -> Draft:
    """The draft that ``item`` asks for; ``whole``: it is a CloudEvent already.

    Refused or EventError for what can't be published, with what to change.
    """
    if not isinstance(item, dict):
        raise EventError("An event must be a JSON object.")
    given = dict(item)
    tags: Any = ()
    version: Any = 0
    if not whole:
        if unknown := sorted(given.keys() - DRAFT):
            raise EventError(
                f"A draft has no {unknown[0]!r}: it has {', '.join(sorted(DRAFT))}. "
                "Attributes of your own travel with a CloudEvent, sent as application/cloudevents+json."
            )
        tags, version = given.pop("tags", ()), given.pop("schema_version", 0)
        given = {"specversion": cloudevent.SPEC_VERSION, "id": "-", "source": own_source(login), "data": {}} | given
    event = cloudevent.from_json(given)
    _refuse_others(event, login)
    _check_time(event, now, keep_days)
    cloudevent.check_kind(event.datacontenttype)
    if event.traceparent and not TRACEPARENT.fullmatch(event.traceparent):
        raise EventError("The event's traceparent is none of W3C Trace Context, version 00.")
    draft = Draft(
        type=event.type,
        data=event.data if event.data is not None else {},
        subject=event.subject,
        source=event.source,
        stream=event.partition_key,
        causation_id=event.causation_id,
        tags=_tags(tags),
        schema_version=_schema_version(event, version),
        outside=True,
        id="" if not whole and "id" not in item else event.id,
        time=event.time,
        correlation_id=event.correlation_id,
        traceparent=event.traceparent,
        extensions=event.extensions,
        datacontenttype=event.datacontenttype,
    )
    if len(draft.place) > MAX_EVENT_STREAM:
        raise EventError(f"The event's source and partitionkey have more than {MAX_EVENT_STREAM} characters together.")
    return draft


def _refuse_others(event: CloudEvent, login: str) -> None:
    own = own_source(login)
    if event.source != own and not event.source.startswith(f"{own}/"):
        detail = f"The source {event.source!r} is not yours: publish as {own!r}, or below it, such as '{own}/shop'."
        raise Refused(Problem(403, "source_not_yours", detail))
    if any(unquote(segment) in {".", ".."} for segment in event.source.removeprefix(own).split("/")):
        # Whoever resolves it as a URI reference (RFC 3986 section 5.2.4) would read another's name in it.
        raise EventError(f"The source {event.source!r} has a segment of dots: a source is compared as it is written.")
    if event.domain in RESERVED:
        detail = f"The domain {event.domain} is what Mission Control and its consumers tell each other."
        raise Refused(Problem(403, "domain_reserved", detail))
    if event.sequence or "sequence" in event.extensions:
        raise EventError("The event's sequence is counted here: leave it out, or say ?expected_version=.")
    if ours := sorted(event.extensions.keys() & PUT_ON):
        raise EventError(f"The event's {ours[0]} is put on here: leave it out.")
    cloudevent.check_count(event.extensions, cloudevent.MAX_OWN)


def _check_time(event: CloudEvent, now: float, keep_days: int) -> None:
    if event.time > now + AHEAD_S:
        raise EventError("The event's time is more than an hour ahead: set the clock, or leave the time out.")
    if event.time and event.time < now - keep_days * DAY_S:
        raise EventError(f"The event's time is past retention, which is {keep_days} days: it would be gone at once.")


def _tags(given: Any) -> tuple[str, ...]:
    if isinstance(given, list | tuple) and all(isinstance(tag, str) for tag in given):
        return tuple(given)
    raise EventError("The event's tags must be a list of texts.")


def _schema_version(event: CloudEvent, said: Any) -> int:
    if not isinstance(said, int) or isinstance(said, bool):
        raise EventError("The event's schema_version must be a whole number.")
    if not event.dataschema:
        return said
    named = schema.named(event.dataschema)
    if named is None or named[0] != event.type or said not in (0, named[1]):
        raise EventError(
            f"The event's dataschema must be {schema.uri(event.type, 1)!r}, with the version that it is written in."
        )
    return named[1]


def says_the_same(event: Event, draft: Draft) -> bool:
    """Whether ``draft``, of the same source and id, is ``event`` once more. What it leaves out is no difference."""
    exact = (event.type, event.subject, event.stream, event.extensions, event.datacontenttype)
    wanted = (draft.type, draft.subject, draft.place, draft.extensions, draft.datacontenttype)
    if exact != wanted or _json(event.data) != _json(draft.data):
        return False
    left_out = (
        (draft.schema_version, event.schema_version),
        (draft.causation_id, event.causation_id),
        (draft.correlation_id, event.correlation_id),
        (draft.traceparent, event.traceparent),
        (round(draft.time, 3), round(event.time.timestamp(), 3)),
    )
    return all(not said or said == stored for said, stored in left_out)


def _json(data: Any) -> bytes:
    return msgspec.json.encode(data, order="deterministic")
