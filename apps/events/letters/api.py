"""REST: dead letters, and the jobs that redrive and replay."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from apps.events.letters import actions, choice, editing, queries
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.letters.serializers import (
    DiscardedSerializer,
    DiscardSerializer,
    EditSerializer,
    GroupSerializer,
    JobSerializer,
    LeaveNoteSerializer,
    LetterDetailSerializer,
    LetterSerializer,
    NoteSerializer,
    PlanSerializer,
    RedriveSerializer,
    ReplaySerializer,
    plain,
)
from apps.events.queries import matching
from apps.lib.moments import Moment
from apps.lib.rest import Pages
from apps.lib.roles import ViewerReadsOperatorActs
from apps.lib.writes import AtomicWrites
from services.kit.events.patterns import PatternError

BIGGEST = 2**63 - 1


class Letters(filters.FilterSet):
    subscription = filters.CharFilter(field_name="subscription__name", max_length=64)
    state = filters.ChoiceFilter(choices=DeadLetter.State.choices)
    open = filters.BooleanFilter(method="by_open", help_text="Whether later events of its key wait behind it.")
    fingerprint = filters.CharFilter(max_length=16)
    reason = filters.CharFilter(max_length=32)
    type = filters.CharFilter(method="by_pattern", max_length=128, help_text="A type or a pattern.")
    key = filters.CharFilter(max_length=1100)
    event_id = filters.CharFilter(max_length=512)
    job = filters.NumberFilter(field_name="job_id", min_value=1, max_value=BIGGEST)
    since = Moment(field_name="last_failed_at", lookup_expr="gte")
    until = Moment(field_name="last_failed_at", lookup_expr="lt")

    class Meta:
        model = DeadLetter
        fields: list[str] = []

    def by_open(self, rows: Any, name: str, value: bool) -> Any:
        return rows.filter(state__in=DeadLetter.OPEN if value else DeadLetter.CLOSED)

    def by_pattern(self, rows: Any, name: str, value: str) -> Any:
        """400 beside the field for what is no pattern."""
        try:
            return matching(rows, [value])
        except PatternError as error:
            raise serializers.ValidationError({name: [str(error)]}) from None


def asked(kind: Any, request: Any) -> dict[str, Any]:
    """What the body asks for, checked."""
    found = kind(data=request.data)
    found.is_valid(raise_exception=True)
    return dict(found.validated_data)


class Numbered:
    """Rows by number: one beyond any database is one that isn't there."""

    lookup_value_regex = "[0-9]{1,20}"

    def get_object(self) -> Any:
        if int(self.kwargs["pk"]) > BIGGEST:  # type: ignore[attr-defined]
            raise Http404
        return super().get_object()  # type: ignore[misc]


@extend_schema_view(
    list=extend_schema(summary="List dead letters", tags=["events"]),
    retrieve=extend_schema(summary="Get a dead letter", tags=["events"], responses=LetterDetailSerializer),
)
class LetterViewSet(
    AtomicWrites, Numbered, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[DeadLetter]
):
    """What could not be delivered, newest first. Operators act."""

    queryset = DeadLetter.objects.select_related("subscription", "replaced_by")
    permission_classes = [ViewerReadsOperatorActs]
    serializer_class = LetterSerializer
    pagination_class = Pages
    filterset_class = Letters

    def retrieve(self, request: Any, pk: str) -> Response:
        letter = self.get_object()
        return Response(LetterDetailSerializer(letter, context={"behind": queries.behind(letter)}).data)

    @extend_schema(
        summary="Group open dead letters by how they failed", tags=["events"], responses=GroupSerializer(many=True)
    )
    @action(detail=False, pagination_class=None)
    def groups(self, request: Any) -> Response:
        """The largest first, 500 at most; the list's filters narrow them."""
        return Response(GroupSerializer(queries.groups({}, self.filter_queryset(self.get_queryset())), many=True).data)

    @extend_schema(
        operation_id="events_dead_letters_discard_many",
        summary="Discard dead letters",
        tags=["events"],
        request=DiscardSerializer,
        responses=DiscardedSerializer,
    )
    @action(detail=False, methods=["post"], url_path="discard", url_name="discard-many", filterset_class=None)
    def discard_many(self, request: Any) -> Response:
        """Those of one subscription that the filter means, 10,000 at most. They are given up for good, and what waits
        behind them goes on. Operators may do this."""
        said = asked(DiscardSerializer, request)
        rows = choice.letters(plain(said["filter"]), DeadLetter.objects.filter(subscription=said["subscription"]))
        count = actions.discard(rows, actor=request.user.get_username(), note=said["note"])
        return Response({"discarded": count})

    @extend_schema(
        summary="Discard a dead letter", tags=["events"], request=NoteSerializer, responses=LetterDetailSerializer
    )
    @action(detail=True, methods=["post"])
    def discard(self, request: Any, pk: str) -> Response:
        """It is given up for good; what waits behind it goes on. Operators may do this."""
        said, letter = asked(NoteSerializer, request), self.get_object()
        if not actions.discard(
            DeadLetter.objects.filter(pk=letter.pk), actor=request.user.get_username(), note=said["note"]
        ):
            raise actions.closed(letter)
        return self.retrieve(request, pk)

    @extend_schema(
        summary="Say that a dead letter was mended elsewhere",
        tags=["events"],
        request=NoteSerializer,
        responses=LetterDetailSerializer,
    )
    @action(detail=True, methods=["post"])
    def resolve(self, request: Any, pk: str) -> Response:
        """What waits behind it goes on. Operators may do this."""
        said, letter = asked(NoteSerializer, request), self.get_object()
        actions.resolve(letter, actor=request.user.get_username(), note=said["note"])
        return self.retrieve(request, pk)

    @extend_schema(
        summary="Leave a note on a dead letter",
        tags=["events"],
        request=LeaveNoteSerializer,
        responses=LetterDetailSerializer,
    )
    @action(detail=True, methods=["post"])
    def note(self, request: Any, pk: str) -> Response:
        """Operators may do this."""
        said, letter = asked(LeaveNoteSerializer, request), self.get_object()
        actions.annotate(letter, actor=request.user.get_username(), note=said["note"])
        return self.retrieve(request, pk)

    @extend_schema(
        summary="Deliver a dead letter with other data",
        tags=["events"],
        request=EditSerializer,
        responses={201: LetterDetailSerializer},
    )
    @action(detail=True, methods=["post"])
    def edit(self, request: Any, pk: str) -> Response:
        """Type, source, subject and key stay; the event gets a new id, and names its original as its cause. The answer
        is the new letter. Operators may do this."""
        said, letter = asked(EditSerializer, request), self.get_object()
        edited = editing.edit(letter, said["data"], actor=request.user.get_username(), note=said["note"])
        return Response(LetterDetailSerializer(edited).data, status=201)


class JobFilters(filters.FilterSet):
    subscription = filters.CharFilter(field_name="subscription__name", max_length=64)
    kind = filters.ChoiceFilter(choices=RedriveJob.Kind.choices)
    state = filters.ChoiceFilter(choices=RedriveJob.State.choices)

    class Meta:
        model = RedriveJob
        fields: list[str] = []


@extend_schema_view(
    list=extend_schema(summary="List redrive and replay jobs", tags=["events"]),
    retrieve=extend_schema(summary="Get a job and how far it is", tags=["events"]),
)
class JobViewSet(
    AtomicWrites, Numbered, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[RedriveJob]
):
    """Jobs that deliver again, newest first. Operators act."""

    queryset = RedriveJob.objects.select_related("subscription")
    permission_classes = [ViewerReadsOperatorActs]
    serializer_class = JobSerializer
    pagination_class = Pages
    filterset_class = JobFilters

    @extend_schema(
        summary="Redrive dead letters",
        tags=["events"],
        request=RedriveSerializer,
        responses={201: JobSerializer, 200: PlanSerializer},
    )
    @action(detail=False, methods=["post"], filterset_class=None)
    def redrive(self, request: Any) -> Response:
        """Try again what was given up, heads of their keys first. 200 with what would happen on a dry run; 409 when
        somebody does exactly that already. Operators may do this."""
        said = asked(RedriveSerializer, request)
        wanted, subscription = plain(said["filter"]), said["subscription"]
        if said["dry_run"]:
            return _planned(queries.plan_redrive(subscription, wanted), LetterSerializer)
        job = actions.redrive(
            subscription,
            wanted,
            actor=request.user.get_username(),
            rate=said["rate"],
            canary=said["canary"],
            note=said["note"],
        )
        return Response(JobSerializer(job).data, status=201)

    @extend_schema(
        summary="Replay events of the log",
        tags=["events"],
        request=ReplaySerializer,
        responses={201: JobSerializer, 200: PlanSerializer},
    )
    @action(detail=False, methods=["post"], filterset_class=None)
    def replay(self, request: Any) -> Response:
        """Deliver them once more to one subscription, each marked with `mcreplay`, beside what is live. 200 with what
        would happen on a dry run. Operators may do this."""
        said = asked(ReplaySerializer, request)
        subscription, wanted = said.get("subscription"), plain(said["filter"])
        if subscription is not None:
            actions.check_replay(subscription)
            wanted = {"types": list(subscription.patterns)} | wanted
        if said["dry_run"]:
            return _planned(queries.plan_replay(wanted), _Event)
        job = actions.replay(
            subscription,
            wanted,
            actor=request.user.get_username(),
            rate=said["rate"],
            canary=said["canary"],
            again=said["again"],
            note=said["note"],
        )
        return Response(JobSerializer(job).data, status=201)

    @extend_schema(summary="Pause a job", tags=["events"], request=None, responses=JobSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Any, pk: str) -> Response:
        """Nothing more is taken; what is under way ends. Operators may do this."""
        return self._change(actions.pause, request)

    @extend_schema(
        summary="Resume a job, or confirm its canary", tags=["events"], request=None, responses=JobSerializer
    )
    @action(detail=True, methods=["post"])
    def resume(self, request: Any, pk: str) -> Response:
        """Operators may do this."""
        return self._change(actions.resume, request)

    @extend_schema(summary="Cancel a job", tags=["events"], request=None, responses=JobSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Any, pk: str) -> Response:
        """What it has not tried stays as it was. Operators may do this."""
        return self._change(actions.cancel, request)

    def _change(self, change: Any, request: Any) -> Response:
        job = self.get_object()
        change(job, request.user.get_username())
        return Response(JobSerializer(job).data)


class _Event(serializers.Serializer):
    """An event of the log in a plan's sample."""

    position = serializers.IntegerField()
    id = serializers.CharField(source="event_id")
    type = serializers.CharField()
    source = serializers.CharField()
    stream = serializers.CharField()
    time = serializers.DateTimeField()


def _planned(plan: queries.Plan, kind: Any) -> Response:
    answer = {
        "dry_run": True,
        "total": plan.total,
        "by_type": plan.by_type,
        "waiting": plan.waiting,
        "redriving": plan.redriving,
        "sample": kind(plan.sample, many=True).data,
    }
    return Response(answer)
