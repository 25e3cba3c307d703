"""REST: publishing."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from apps.events.intake import actions, overload
from apps.events.intake.core import own_source
from apps.events.intake.parsers import MAX_BODY, MOST, Batched, Plain, Structured
from apps.events.intake.serializers import CLOUDEVENT, DRAFT, PublishedSerializer
from apps.lib.writes import AtomicWrites

TRUE, FALSE = {"true", "1"}, {"false", "0", ""}


class Publishes(AtomicWrites):
    """Mixin of the viewset of events: ``create`` publishes. The body is read before the transaction begins, so that
    no slow or huge one holds up the other writers."""

    parser_classes = [Plain, Structured, Batched]
    _has_turn = False

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().dispatch(request, *args, **kwargs)  # type: ignore[misc]
        finally:
            if self._has_turn:
                overload.turns.release()

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Roles first, then room, then the body."""
        super().initial(request, *args, **kwargs)
        if request.method == "POST" and self.action == "create":  # type: ignore[attr-defined]
            overload.take_turn()
            self._has_turn = True
            raw = request._request
            if not hasattr(raw, "_body"):
                # As missioncontrol.middleware does: Django's own bound, which is lower, is for every other address.
                raw._body = raw.read(MAX_BODY + 1)
            _ = request.data

    @extend_schema(
        summary="Publish one event or many",
        tags=["events"],
        request={
            "application/json": {"oneOf": [DRAFT, {"type": "array", "items": DRAFT, "minItems": 1, "maxItems": MOST}]},
            "application/cloudevents+json": CLOUDEVENT,
            "application/cloudevents-batch+json": {
                "type": "array",
                "items": CLOUDEVENT,
                "minItems": 1,
                "maxItems": MOST,
            },
        },
        responses={202: PublishedSerializer},
        parameters=[
            OpenApiParameter("atomic", bool, description="All of them or none; else each on its own merits."),
            OpenApiParameter(
                "expected_version",
                {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
                description="Only if the one stream of the events is at this version; else 409 `version_conflict`.",
            ),
        ],
    )
    def create(self, request: Any) -> Response:
        """Operators may do this, as `client/<login>` or below it. CloudEvents in structured, batched or binary mode
        (`ce-` headers), or drafts.

        202 says for each event of the request, in order, where it is in the log, or why it was refused; what was
        refused is not stored, and what was not is. An event of a source and id that are known is the one from before
        when it says the same, and else refused (`event_id_taken`). A position is null for the moment until it is given.
        """
        asked = request.query_params
        if not isinstance(request.data, dict) or "events" not in request.data:
            raise serializers.ValidationError({"non_field_errors": ["Send an event, or an array of them."]})
        outcomes = actions.take(
            request.data["events"],
            request.user.get_username(),
            whole=request.data["whole"],
            expected_version=_version(asked.get("expected_version")),
            atomic=_flag(asked.get("atomic", "")),
        )
        refused = sum(one.problem is not None for one in outcomes)
        answer = {
            "source": own_source(request.user.get_username()),
            "accepted": len(outcomes) - refused,
            "refused": refused,
            "events": [_described(one) for one in outcomes],
        }
        return Response(answer, status=202)


def _described(one: actions.Outcome) -> dict[str, Any]:
    if one.problem is not None:
        return {"problem": one.problem.document()}
    event = one.event
    assert event is not None  # noqa: S101 - one of the two
    return {
        "id": event.event_id,
        "source": event.source,
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "repeated": one.repeated,
    }


def _flag(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise serializers.ValidationError({"atomic": ["Say true or false."]})
    return text.lower() in TRUE


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63):
        raise serializers.ValidationError({"expected_version": ["Say a whole number from 0."]})
    return int(text)
