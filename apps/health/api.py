"""REST: health checks, verdicts, and the history of instances and breakers."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics, serializers, viewsets
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.health import queries
from apps.health.actions import checks_changed
from apps.health.models import BREAKER_STATES, STATES, BreakerTransition, HealthCheck, HealthTransition
from apps.health.serializers import (
    BreakerTransitionSerializer,
    HealthCheckSerializer,
    HealthTransitionSerializer,
    StatusSerializer,
    SummarySerializer,
)
from apps.lib import clock
from apps.lib.moments import Moment
from apps.lib.rest import Pages
from apps.lib.writes import AtomicWrites
from apps.registry.api import NAME, described
from apps.registry.models import Service

DAY_S = 86_400


class OldestFirst(Pages):
    """Cursor pages in the order in which the checks were made."""

    ordering = "pk"


@extend_schema_view(**described("health check", "health checks", "health"))
class HealthCheckViewSet(AtomicWrites, viewsets.ModelViewSet):
    """How services are probed; goes by the service's name. A change holds from the next second on.

    A deleted check is made again with the defaults: switch it off with `enabled` to stop probing.
    """

    queryset = HealthCheck.objects.select_related("service")
    serializer_class = HealthCheckSerializer
    pagination_class = OldestFirst
    lookup_field = "service__name"
    lookup_url_kwarg = "service"
    lookup_value_regex = NAME
    filterset_fields = ["enabled"]

    def perform_create(self, serializer: Any) -> None:
        super().perform_create(serializer)
        checks_changed()

    def perform_update(self, serializer: Any) -> None:
        super().perform_update(serializer)
        checks_changed()

    def perform_destroy(self, instance: Any) -> None:
        super().perform_destroy(instance)
        checks_changed()


class StatusQuery(serializers.Serializer):
    service = serializers.CharField(required=False, max_length=63)
    state = serializers.ChoiceField(required=False, choices=STATES)


class StatusView(APIView):
    """What the monitor holds of every instance now."""

    @extend_schema(
        summary="Verdicts on all instances",
        tags=["health"],
        parameters=[StatusQuery],
        responses=StatusSerializer(many=True),
        operation_id="health_statuses",
    )
    def get(self, request: Any) -> Response:
        """Not paged: one entry per instance. Entries with an old `checked_at` say that nobody looks any more."""
        query = StatusQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        found = queries.statuses(query.validated_data.get("service"))
        state = query.validated_data.get("state")
        rows = [status for status in found if state is None or status.state == state]
        return Response(StatusSerializer(rows, many=True).data)


class HealthTransitions(filters.FilterSet):
    service = filters.CharFilter(max_length=63)
    instance = filters.CharFilter(field_name="key", max_length=127, help_text="`<service>/<instance>`")
    to_state = filters.ChoiceFilter(choices=STATES)
    since = Moment(field_name="at", lookup_expr="gte")
    until = Moment(field_name="at", lookup_expr="lt")

    class Meta:
        model = HealthTransition
        fields: list[str] = []


@extend_schema_view(get=extend_schema(summary="List changes of health", tags=["health"]))
class HealthTransitionList(generics.ListAPIView):
    """Every change of an instance's state, newest first."""

    queryset = HealthTransition.objects.all()
    serializer_class = HealthTransitionSerializer
    filterset_class = HealthTransitions


class BreakerTransitions(filters.FilterSet):
    service = filters.CharFilter(max_length=63)
    worker = filters.CharFilter(max_length=120)
    whole = filters.BooleanFilter(method="only_whole", help_text="True: services as a whole; false: single workers.")
    to_state = filters.ChoiceFilter(choices=BREAKER_STATES)
    since = Moment(field_name="at", lookup_expr="gte")
    until = Moment(field_name="at", lookup_expr="lt")

    class Meta:
        model = BreakerTransition
        fields: list[str] = []

    def only_whole(self, rows: Any, name: str, value: bool) -> Any:
        """A service as a whole has rows without a worker."""
        return rows.filter(worker="") if value else rows.exclude(worker="")


@extend_schema_view(get=extend_schema(summary="List changes of breakers", tags=["health"]))
class BreakerTransitionList(generics.ListAPIView):
    """Every change of a breaker, per gateway worker and for the service as a whole, newest first."""

    queryset = BreakerTransition.objects.all()
    serializer_class = BreakerTransitionSerializer
    filterset_class = BreakerTransitions


class SummaryQuery(serializers.Serializer):
    window = serializers.IntegerField(required=False, default=DAY_S, min_value=1, max_value=90 * DAY_S)


class SummaryView(APIView):
    """Time in state of one service."""

    @extend_schema(
        summary="Time in state of a service",
        tags=["health"],
        parameters=[
            OpenApiParameter(
                "window", OpenApiTypes.INT, default=DAY_S, description="Seconds back from now, 1 to 7,776,000."
            )
        ],
        responses=SummarySerializer,
        operation_id="health_summary",
    )
    def get(self, request: Any, service: str) -> Response:
        """How long its instances and its breaker were in which state."""
        query = SummaryQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        if not Service.objects.filter(name=service).exists():
            raise Http404(f"There is no service {service}.")
        until = clock.wall()
        since = until - query.validated_data["window"]
        states = {status.key: status.state for status in queries.statuses(service)}
        body = {
            "service": service,
            "since": since,
            "until": until,
            "instances": [
                {
                    "instance": key,
                    "state": states.get(key, "unknown"),
                    "seconds": {state: round(value, 3) for state, value in seconds.items()},
                    "healthy_share": _share(seconds),
                }
                for key, seconds in queries.time_in_state(service, since, until).items()
            ],
            "breaker": {
                "seconds": {
                    state: round(value, 3)
                    for state, value in queries.breaker_time_in_state(service, since, until).items()
                },
                "timeline": queries.breaker_timeline(service, since),
            },
        }
        return Response(SummarySerializer(body).data)


def _share(seconds: dict[str, float]) -> float | None:
    known = seconds.get("healthy", 0.0) + seconds.get("unhealthy", 0.0)
    return round(seconds.get("healthy", 0.0) / known, 6) if known else None
