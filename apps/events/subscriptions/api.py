"""REST: subscriptions, and what came of their attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from django.core.exceptions import ValidationError
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, mixins, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.events import queries as log
from apps.events.subscriptions import actions
from apps.events.subscriptions.models import Attempt, Subscription
from apps.events.subscriptions.serializers import (
    AttemptSerializer,
    IssuedSubscriptionSerializer,
    NewSubscriptionSerializer,
    OutcomeSerializer,
    RotatedSerializer,
    RotationSerializer,
    StartSerializer,
    SubscriptionSerializer,
)
from apps.lib import clock
from apps.lib.rest import Pages, name_the_actor
from apps.lib.roles import ADMIN, ViewerReadsOperatorActs, acts_as
from apps.lib.writes import AtomicWrites

NAME = "[A-Za-z0-9_-]{1,64}"
NAMED = OpenApiParameter("name", str, OpenApiParameter.PATH, description="The subscription's name.")

P = ParamSpec("P")
T = TypeVar("T")


class ByName(Pages):
    ordering = "name"


def asked(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``call``, with its faults beside the fields that they are in."""
    try:
        return call(*args, **kwargs)
    except ValidationError as error:
        raise exceptions.ValidationError(error.message_dict) from None


def acts(summary: str) -> Any:
    """An operation that operators may ask for, with no body."""
    return extend_schema(
        summary=summary, tags=["events"], parameters=[NAMED], request=None, responses=SubscriptionSerializer
    )


@extend_schema_view(
    list=extend_schema(summary="List subscriptions", tags=["events"]),
    retrieve=extend_schema(summary="Get a subscription", tags=["events"], parameters=[NAMED]),
    destroy=extend_schema(summary="Delete a subscription", tags=["events"], parameters=[NAMED]),
)
class SubscriptionViewSet(
    AtomicWrites,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[Subscription],
):
    """Who gets which events: webhooks, services' consumers, and handlers of Mission Control's own."""

    queryset = Subscription.objects.all()
    serializer_class = SubscriptionSerializer
    pagination_class = ByName
    lookup_field = "name"
    lookup_value_regex = NAME
    filterset_fields = ["kind", "state"]

    def get_serializer_context(self) -> dict[str, Any]:
        return super().get_serializer_context() | {
            "head": log.head(),
            "now": clock.wall(),
            "whole": acts_as(self.request, ADMIN),
        }

    def _shown(self, row: Subscription) -> Response:
        row.refresh_from_db()
        return Response(self.get_serializer(row).data)

    @extend_schema(
        summary="Add a webhook",
        tags=["events"],
        request=NewSubscriptionSerializer,
        responses={201: IssuedSubscriptionSerializer},
    )
    def create(self, request: Any) -> Response:
        """The answer holds the secret that signs its requests, this one time."""
        wanted = NewSubscriptionSerializer(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        fields = dict(wanted.validated_data)
        row, secret = asked(actions.create, fields, fields.pop("start"))
        return Response(SubscriptionSerializer(row, context=wanted.context).data | {"secret": secret}, status=201)

    @extend_schema(summary="Change a webhook", tags=["events"], parameters=[NAMED])
    def partial_update(self, request: Any, name: str) -> Response:
        """Another `url` is asked for its permission anew."""
        row = self.get_object()
        wanted = self.get_serializer(row, data=request.data, partial=True)
        wanted.is_valid(raise_exception=True)
        return self._shown(asked(actions.change, row, wanted.validated_data))

    def perform_destroy(self, instance: Subscription) -> None:
        actions.delete(instance)

    @acts("Pause a subscription")
    @action(detail=True, methods=["post"], permission_classes=[ViewerReadsOperatorActs])
    def pause(self, request: Any, name: str) -> Response:
        """Nothing is delivered until it is resumed; its events wait in the log."""
        return self._shown(actions.pause(self.get_object()))

    @acts("Resume a subscription")
    @action(detail=True, methods=["post"], permission_classes=[ViewerReadsOperatorActs])
    def resume(self, request: Any, name: str) -> Response:
        """From where it stood, whether it was paused or disabled; a breaker that is open closes."""
        return self._shown(actions.resume(self.get_object()))

    @acts("Disable a subscription")
    @action(detail=True, methods=["post"], permission_classes=[ViewerReadsOperatorActs])
    def disable(self, request: Any, name: str) -> Response:
        """Nothing is delivered, and no change of a schema is held to it, until it is resumed."""
        return self._shown(actions.disable(self.get_object(), f"{request.user.get_username()} disabled it"))

    @extend_schema(
        summary="Go on from another place in the log",
        tags=["events"],
        parameters=[NAMED],
        request=StartSerializer,
        responses=SubscriptionSerializer,
    )
    @action(detail=True, methods=["post"], permission_classes=[ViewerReadsOperatorActs])
    def seek(self, request: Any, name: str) -> Response:
        """Back, and events come again; forward, and some are passed over."""
        row, wanted = self.get_object(), StartSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        return self._shown(asked(actions.seek, row, wanted.validated_data["start"]))

    @extend_schema(
        summary="Replace a webhook's secret",
        tags=["events"],
        parameters=[NAMED],
        request=RotationSerializer,
        responses=RotatedSerializer,
    )
    @action(detail=True, methods=["post"])
    def rotate(self, request: Any, name: str) -> Response:
        """The answer holds the new one, this one time. For `overlap_s` seconds the old one signs beside it."""
        row, wanted = self.get_object(), RotationSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        said = wanted.validated_data
        return Response({"secret": actions.rotate(row, said["overlap_s"], said["reason"])})


class SubscriptionTestView(APIView):
    """A trial of one webhook."""

    permission_classes = [ViewerReadsOperatorActs]

    @extend_schema(
        summary="Send a webhook a sample",
        tags=["events"],
        parameters=[NAMED],
        request=None,
        responses=OutcomeSerializer,
        operation_id="events_subscriptions_test",
    )
    def post(self, request: Any, name: str) -> Response:
        """One event of type `control.sample.sent`, signed, now. 200 with what came of it; it is among the attempts."""
        # In no transaction: an endpoint that hangs must hold no lock of the database.
        name_the_actor(request.user)
        found = actions.test(get_object_or_404(Subscription, name=name))
        answer = {
            "outcome": found.reason,
            "status": found.status,
            "error": found.error,
            "answer": found.answer,
            "duration_ms": round(found.took_s * 1000),
        }
        return Response(answer)


@extend_schema_view(list=extend_schema(summary="List attempts of a subscription", tags=["events"], parameters=[NAMED]))
class AttemptViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Attempt]):
    """What came of the newest requests to a webhook, newest first."""

    queryset = Attempt.objects.all()
    serializer_class = AttemptSerializer
    filterset_fields = ["outcome", "event_id"]

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(subscription__name=self.kwargs.get("name", ""))

    def list(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        get_object_or_404(Subscription, name=kwargs["name"])
        return super().list(request, *args, **kwargs)
