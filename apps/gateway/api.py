"""REST: routes, policies, consumers, keys and issuers; breakers and workers; published revisions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, mixins, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from apps.gateway import actions, queries
from apps.gateway import compile as compiler
from apps.gateway import serializers as shapes
from apps.gateway.core import config
from apps.gateway.models import (
    ApiKey,
    BreakerPolicy,
    ConfigRevision,
    Consumer,
    JwtIssuer,
    RateLimitPolicy,
    Route,
    ServicePolicy,
)
from apps.lib.rest import Pages
from apps.lib.roles import AdminOnly, ViewerReadsOperatorActs
from apps.registry.api import ID, NAME, ByName, described
from apps.registry.models import Service
from apps.registry.writes import PublishingWrites
from services.kit.problem import Problem, Refused


class _Named(PublishingWrites, viewsets.ModelViewSet):
    """A published noun that goes by its name."""

    pagination_class = ByName
    lookup_field = "name"
    lookup_value_regex = NAME


@extend_schema_view(**described("route", "routes", "routes"))
class RouteViewSet(_Named):
    """Which requests go to which service, and under which policies."""

    queryset = Route.objects.select_related("service", "rate_limit")
    serializer_class = shapes.RouteSerializer
    filterset_fields = ["service__name", "enabled"]


@extend_schema_view(**described("rate-limit policy", "rate-limit policies", "policies"))
class RateLimitViewSet(_Named):
    """How many requests a consumer may make."""

    queryset = RateLimitPolicy.objects.all()
    serializer_class = shapes.RateLimitSerializer


@extend_schema_view(**described("breaker policy", "breaker policies", "policies"))
class BreakerPolicyViewSet(_Named):
    """When calls to a failing service are cut off, and how it is tried again."""

    queryset = BreakerPolicy.objects.all()
    serializer_class = shapes.BreakerPolicySerializer


class ByService(Pages):
    """Cursor pages in the order in which services were added."""

    ordering = "service_id"


@extend_schema_view(**described("service policy", "service policies", "policies"))
class ServicePolicyViewSet(_Named):
    """How the gateway treats a service as an upstream; goes by the service's name."""

    queryset = ServicePolicy.objects.select_related("service", "breaker")
    serializer_class = shapes.ServicePolicySerializer
    pagination_class = ByService
    lookup_field = "service__name"
    lookup_url_kwarg = "service"


@extend_schema_view(**described("consumer", "consumers", "consumers"))
class ConsumerViewSet(_Named):
    """Who calls. Admins only."""

    queryset = Consumer.objects.select_related("rate_limit")
    serializer_class = shapes.ConsumerSerializer
    permission_classes = [AdminOnly]
    filterset_fields = ["enabled"]


@extend_schema_view(**described("JWT issuer", "JWT issuers", "consumers"))
class IssuerViewSet(_Named):
    """Whose tokens the gateway trusts."""

    queryset = JwtIssuer.objects.all()
    serializer_class = shapes.IssuerSerializer


@extend_schema_view(**described("API key", "API keys", "consumers", without=("update", "partial_update")))
class KeyViewSet(
    PublishingWrites,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.CreateModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet,
):
    """API keys, of which only prefix and keyed hash are kept. Admins only."""

    queryset = ApiKey.objects.select_related("consumer")
    serializer_class = shapes.KeySerializer
    permission_classes = [AdminOnly]
    lookup_value_regex = ID
    filterset_fields = ["consumer__name", "prefix"]

    @extend_schema(
        summary="Issue an API key", request=shapes.KeySerializer, responses={201: shapes.IssuedKeySerializer}
    )
    def create(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """The answer holds the key itself, this one time."""
        asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        row, key = actions.issue_key(
            wanted["consumer"],
            author=request.user.get_username(),
            name=wanted.get("name", ""),
            scopes=wanted.get("scopes", ()),
            expires_at=wanted.get("expires_at"),
        )
        self.publish(f"key {row.prefix} of {row.consumer} issued")
        return Response(self.get_serializer(row).data | {"key": key}, status=201)

    @extend_schema(summary="Revoke an API key", request=None, responses=shapes.KeySerializer, tags=["consumers"])
    @action(detail=True, methods=["post"])
    def revoke(self, request: Any, pk: Any = None) -> Response:
        """For good: gateways refuse it within two seconds. Revoking it again changes nothing."""
        row = self.get_object()
        actions.revoke_key(row, author=request.user.get_username())
        self.publish(f"key {row.prefix} of {row.consumer} revoked")
        return Response(self.get_serializer(self.get_object()).data)


class Newest(Pages):
    """Cursor pages, the newest revision first."""

    ordering = "-number"


@extend_schema_view(
    list=extend_schema(summary="List published revisions", tags=["revisions"]),
    retrieve=extend_schema(
        summary="Get a revision with its document", responses=shapes.RevisionDetailSerializer, tags=["revisions"]
    ),
)
class RevisionViewSet(viewsets.ReadOnlyModelViewSet):
    """Every configuration that gateways were given."""

    queryset = ConfigRevision.objects.defer("document")
    serializer_class = shapes.RevisionSerializer
    pagination_class = Newest
    lookup_field = "number"
    lookup_value_regex = ID
    filterset_fields = ["author"]

    def get_serializer_class(self) -> Any:
        return shapes.RevisionDetailSerializer if self.action == "retrieve" else shapes.RevisionSerializer

    @extend_schema(
        summary="What a revision changed",
        parameters=[OpenApiParameter("against", OpenApiTypes.INT, description="Instead of the one before.")],
        responses=shapes.DiffSerializer,
        tags=["revisions"],
    )
    @action(detail=True)
    def diff(self, request: Any, number: str = "") -> Response:
        """Against the revision before, or the one that ``?against=`` names."""
        newer = self.get_object()
        asked = request.query_params.get("against")
        if asked is None:
            older = ConfigRevision.objects.filter(number__lt=newer.number).first()
        elif asked.isascii() and asked.isdigit() and len(asked) <= 18:
            older = get_object_or_404(ConfigRevision, number=int(asked))
        else:
            raise exceptions.ValidationError({"against": ["Give the number of a revision."]})
        changes = compiler.differences(
            None if older is None else config.decode(older.document.encode()),
            config.decode(newer.document.encode()),
        )
        return Response(
            {"revision": newer.number, "against": None if older is None else older.number, "changes": changes}
        )


def _live() -> dict[str, queries.BreakerStatus]:
    try:
        return queries.breakers()
    except queries.GatewayStateAway:
        raise _away() from None


def _away() -> Refused:
    return Refused(
        Problem(503, "live_state_away", "Redis, where gateway workers report, can't be reached.", retry_after=2)
    )


def _breaker(service: Service, live: dict[str, queries.BreakerStatus]) -> dict[str, Any]:
    """The live state with the operator's override; ``unknown`` when no worker speaks of it."""
    status = live.get(service.name)
    shown: dict[str, Any] = {
        "service": service.name,
        "state": "unknown",
        "since": None,
        "calls": 0,
        "failure_rate": None,
        "slow_rate": None,
        "retry_at": None,
        "workers": 0,
        "at": None,
        "ejected": [],
        "panic": False,
        "in_flight": 0,
        "limit": 0,
    }
    if status is not None:
        shown |= asdict(status)
    shown.pop("forced", None)
    override = getattr(service, "breaker_override", None)
    return shown | {"override": None if override is None else shapes.OverrideSerializer(override).data}


class BreakerViewSet(PublishingWrites, viewsets.GenericViewSet):
    """Each service's breaker, as live gateway workers report it. Operators may hold and release it."""

    queryset = Service.objects.order_by("name").select_related("breaker_override")
    serializer_class = shapes.BreakerSerializer
    permission_classes = [ViewerReadsOperatorActs]
    pagination_class = None
    filter_backends: list[Any] = []
    lookup_field = "name"
    lookup_url_kwarg = "service"
    lookup_value_regex = NAME

    @extend_schema(summary="List breakers", responses=shapes.BreakerSerializer(many=True), tags=["breakers"])
    def list(self, request: Any) -> Response:
        """The worst state over live workers, by service."""
        live = _live()
        return Response([_breaker(service, live) for service in self.get_queryset()])

    @extend_schema(summary="Get a breaker", tags=["breakers"])
    def retrieve(self, request: Any, service: str = "") -> Response:
        """The worst state over live workers."""
        return Response(_breaker(self.get_object(), _live()))

    @extend_schema(summary="Hold a breaker open", request=shapes.ReasonSerializer, tags=["breakers"])
    @action(detail=True, methods=["post"])
    def open(self, request: Any, service: str = "") -> Response:
        """Every call to the service is refused until it is released."""
        return self._hold("open")

    @extend_schema(summary="Hold a breaker closed", request=shapes.ReasonSerializer, tags=["breakers"])
    @action(detail=True, methods=["post"])
    def close(self, request: Any, service: str = "") -> Response:
        """Every call goes through, whatever fails, until it is released."""
        return self._hold("closed")

    @extend_schema(summary="Release a breaker", request=shapes.ReasonSerializer, tags=["breakers"])
    @action(detail=True, methods=["post"])
    def release(self, request: Any, service: str = "") -> Response:
        """It judges for itself again. Releasing what is not held changes nothing."""
        found, reason = self.get_object(), self._reason()
        self.publication = actions.release_breaker(found, author=self._author(), reason=reason)
        return self._answer()

    def _hold(self, state: str) -> Response:
        found, reason = self.get_object(), self._reason()
        self.publication = actions.hold_breaker(found, state, author=self._author(), reason=reason)
        return self._answer()

    def _answer(self) -> Response:
        # The workers have yet to hear of it: this is what they last said, beside the new word on it.
        try:
            live = queries.breakers()
        except queries.GatewayStateAway:
            live = {}
        return Response(_breaker(self.get_object(), live))

    def _reason(self) -> str:
        asked = shapes.ReasonSerializer(data=self.request.data)
        asked.is_valid(raise_exception=True)
        return str(asked.validated_data["reason"])

    def _author(self) -> str:
        return str(self.request.user.get_username())


class WorkerViewSet(viewsets.GenericViewSet):
    """Live gateway workers and the revision each serves."""

    queryset = ConfigRevision.objects.none()
    serializer_class = shapes.WorkerSerializer
    pagination_class = None
    filter_backends: list[Any] = []

    @extend_schema(summary="List gateway workers", responses=shapes.WorkerSerializer(many=True), tags=["gateway"])
    def list(self, request: Any) -> Response:
        """Each refreshes its line every two seconds; one that has been silent for ten is not listed."""
        try:
            return Response([asdict(worker) for worker in queries.workers()])
        except queries.GatewayStateAway:
            raise _away() from None
