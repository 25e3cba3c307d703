"""REST: rules of routing."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import viewsets

from apps.events.routing import actions
from apps.events.routing.models import NAME, RoutingRule
from apps.events.routing.serializers import RoutingRuleSerializer
from apps.lib.rest import Pages
from apps.lib.writes import AtomicWrites

BY_NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, description="The rule's name.")


class InOrder(Pages):
    ordering = ("order", "name")


@extend_schema_view(
    list=extend_schema(summary="List rules of routing", tags=["events"]),
    retrieve=extend_schema(summary="Get a rule of routing", tags=["events"], parameters=[BY_NAME]),
    create=extend_schema(summary="Add a rule of routing", tags=["events"]),
    update=extend_schema(summary="Replace a rule of routing", tags=["events"], parameters=[BY_NAME]),
    partial_update=extend_schema(summary="Change a rule of routing", tags=["events"], parameters=[BY_NAME]),
    destroy=extend_schema(summary="Delete a rule of routing", tags=["events"], parameters=[BY_NAME]),
)
class RoutingRuleViewSet(AtomicWrites, viewsets.ModelViewSet[RoutingRule]):
    """Which events go to which broker. A change is published as it is saved; everybody goes by it within a second."""

    queryset = RoutingRule.objects.all()
    serializer_class = RoutingRuleSerializer
    pagination_class = InOrder
    lookup_field = "name"
    lookup_value_regex = NAME

    def perform_create(self, serializer: Any) -> None:
        self._write(serializer.save)

    def perform_update(self, serializer: Any) -> None:
        self._write(serializer.save)

    def perform_destroy(self, instance: RoutingRule) -> None:
        self._write(instance.delete)

    def _write(self, change: Any) -> None:
        change()
        actions.publish(self.request.user.get_username())
