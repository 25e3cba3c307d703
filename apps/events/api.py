"""REST: the event store; publishing is of the room intake."""

from __future__ import annotations

from typing import Any

from django.forms import IntegerField
from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, mixins, serializers, viewsets

from apps.events.intake.api import Publishes
from apps.events.models import MAX_STREAM, Event
from apps.events.queries import beside, head, kinds_like, page_of
from apps.events.serializers import EventSerializer
from apps.lib.moments import Moment
from apps.lib.rest import Pages
from apps.lib.roles import ViewerReadsOperatorActs
from services.kit.events.cloudevent import MAX_TEXT
from services.kit.events.patterns import PatternError
from services.kit.problem import Problem, Refused

BIGGEST = 2**63 - 1
MOST_SOURCES = 20
"""Told of one id."""


class Positions(Pages):
    """The log from its end, or, with ``after``, on from a position."""

    offset_cutoff = 1_000_000
    """A cursor counts events of one instant, and so many may have been published at once; beyond is no database's."""
    own = (Pages.cursor_query_param, Pages.page_size_query_param, "format")
    """Parameters that narrow nothing."""

    def get_ordering(self, request: Any, queryset: Any, view: Any) -> tuple[str, ...]:
        if "after" in request.query_params:
            return ("position",)
        if request.query_params.get("stream") and not request.query_params.keys() & {"since", "until"}:
            # The index of a stream is by version: a long one would have to be sorted for each page.
            return ("-version",)
        # What is asked for by time comes in its order: the index by time then finds it and ends with the page.
        return ("-time", "-position") if request.query_params.keys() & {"since", "until"} else ("-position",)

    def paginate_queryset(self, queryset: Any, request: Any, view: Any = None) -> Any:
        """As DRF does; where types are all that narrows the log, from no more of it than the page needs."""
        asked = request.query_params
        if asked.get("type") and asked.keys() <= {"type", "after", *self.own}:
            kinds = kinds_like([asked["type"]])
            if kinds is not None:
                try:
                    queryset = self._page_of(queryset, kinds, request)
                except ValueError:
                    raise exceptions.NotFound(self.invalid_cursor_message) from None
        return super().paginate_queryset(queryset, request, view)

    def _page_of(self, queryset: Any, kinds: list[str], request: Any) -> Any:
        cursor = self.decode_cursor(request)
        after = request.query_params.get("after")
        start = Whole.field_class().clean(after) if after else None
        back, skipped = False, 0
        if cursor is not None:
            start = int(cursor.position) if cursor.position else start
            back, skipped = cursor.reverse, cursor.offset
        count = self.get_page_size(request) + skipped + 1
        return page_of(queryset, kinds, start, count, forward=bool(after) != back)


class Whole(filters.NumberFilter):
    """A whole number."""

    field_class = IntegerField


class Events(filters.FilterSet):
    type = filters.CharFilter(
        method="by_pattern",
        max_length=128,
        help_text="A type or a pattern: `*` is one segment, `#` any number, such as `system.#`.",
    )
    subject = filters.CharFilter(max_length=MAX_TEXT)
    source = filters.CharFilter(max_length=MAX_TEXT)
    stream = filters.CharFilter(max_length=MAX_STREAM)
    id = filters.CharFilter(field_name="event_id", max_length=MAX_TEXT)
    tag = filters.CharFilter(field_name="tags__tag", max_length=255)
    correlation_id = filters.CharFilter(max_length=MAX_TEXT)
    since = Moment(field_name="time", lookup_expr="gte")
    until = Moment(field_name="time", lookup_expr="lt")
    after = Whole(
        field_name="position",
        lookup_expr="gt",
        min_value=0,
        max_value=BIGGEST,
        help_text="Follow the log: events after this position, oldest first. No event is missed.",
    )

    class Meta:
        model = Event
        fields: list[str] = []

    def by_pattern(self, rows: Any, name: str, value: str) -> Any:
        """400 beside the field for what is no pattern."""
        try:
            # The end first: a type that is new by the time of the query must not be passed by.
            return beside(rows.filter(position__lte=head()), [value])
        except PatternError as error:
            raise serializers.ValidationError({name: [str(error)]}) from None


@extend_schema_view(
    list=extend_schema(summary="List events", tags=["events"]),
    retrieve=extend_schema(
        summary="Get an event",
        tags=["events"],
        parameters=[
            OpenApiParameter("id", str, OpenApiParameter.PATH, description="The CloudEvents id, percent-encoded."),
            OpenApiParameter("source", str, description="Whose event, where several publishers gave the same id."),
        ],
    ),
)
class EventViewSet(Publishes, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Event]):
    """Everything that was published, newest first. Events never change.

    What was published a moment ago is listed when it has its position in the log.
    """

    queryset = Event.objects.select_related("outbox").prefetch_related("tags")
    pagination_class = Positions
    serializer_class = EventSerializer
    filterset_class = Events
    permission_classes = [ViewerReadsOperatorActs]
    lookup_field = "event_id"
    lookup_url_kwarg = "id"
    # Others choose ids as they like, slashes and all: this address comes behind every other below it.
    lookup_value_regex = ".+"

    def filter_queryset(self, queryset: Any) -> Any:
        rows = super().filter_queryset(queryset)
        return rows.filter(position__isnull=False) if self.action == "list" else rows

    def get_object(self) -> Event:
        """409 `ambiguous_id`, naming the sources, when several publishers gave this id."""
        rows = self.get_queryset().filter(event_id=text(self.kwargs["id"], "id"))
        if source := self.request.query_params.get("source"):
            rows = rows.filter(source=text(source, "source"))
        found = list(rows.order_by("pk")[: MOST_SOURCES + 1])
        if not found:
            raise exceptions.NotFound("There is no such event, or it is past its retention.")
        if len(found) > 1:
            sources = [event.source for event in found[:MOST_SOURCES]]
            detail = f"{' and '.join(sources[:2])} published events of this id: say whose with ?source=."
            raise Refused(Problem(409, "ambiguous_id", detail, extra={"sources": sources}))
        return found[0]


def text(value: str, name: str) -> str:
    """400 for what no event can be called."""
    if len(value) > MAX_TEXT or "\0" in value:
        raise serializers.ValidationError({name: [f"At most {MAX_TEXT} characters, none of them NUL."]})
    return value
