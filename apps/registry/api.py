"""REST: services and instances."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from apps.lib.rest import Pages
from apps.lib.roles import ViewerReadsOperatorActs
from apps.registry.models import Instance, Service
from apps.registry.serializers import InstanceSerializer, ServiceSerializer
from apps.registry.writes import PublishingWrites

NAME = "[a-z][a-z0-9-]{0,62}"
ID = "[0-9]{1,18}"


class ByName(Pages):
    """Cursor pages in the order of names."""

    ordering = "name"


def described(noun: str, plural: str, tag: str, without: tuple[str, ...] = ()) -> Any:
    """Operation summaries of a model viewset: 'List routes', 'Change a route'…; ``without`` what it lacks."""
    article = "an" if noun[0] in "aeiouAEI" else "a"
    summaries = {
        "list": f"List {plural}",
        "retrieve": f"Get {article} {noun}",
        "create": f"Add {article} {noun}",
        "update": f"Replace {article} {noun}",
        "partial_update": f"Change {article} {noun}",
        "destroy": f"Delete {article} {noun}",
    }
    return {name: extend_schema(summary=text, tags=[tag]) for name, text in summaries.items() if name not in without}


@extend_schema_view(**described("service", "services", "services"))
class ServiceViewSet(PublishingWrites, viewsets.ModelViewSet):
    """Backends that clients reach through the gateway and the monitor watches."""

    queryset = Service.objects.prefetch_related(Prefetch("instances", Instance.objects.select_related("service")))
    serializer_class = ServiceSerializer
    pagination_class = ByName
    lookup_field = "name"
    lookup_value_regex = NAME
    filterset_fields = ["fleet", "owner"]


ACTS = {"request": None, "responses": InstanceSerializer, "tags": ["services"]}


@extend_schema_view(**described("instance", "instances", "services"))
class InstanceViewSet(PublishingWrites, viewsets.ModelViewSet):
    """The processes that serve a service."""

    queryset = Instance.objects.select_related("service")
    serializer_class = InstanceSerializer
    lookup_value_regex = ID
    filterset_fields = ["service__name", "name", "enabled"]

    @extend_schema(summary="Put an instance into rotation", **ACTS)
    @action(detail=True, methods=["post"], permission_classes=[ViewerReadsOperatorActs])
    def enable(self, request: Any, pk: Any = None) -> Response:
        """Operators may do this."""
        return self._turn(True)

    @extend_schema(summary="Drain an instance: take it out of rotation", **ACTS)
    @action(detail=True, methods=["post"], permission_classes=[ViewerReadsOperatorActs])
    def disable(self, request: Any, pk: Any = None) -> Response:
        """Operators may do this. Requests under way end as they would; no new one starts, and probes stop."""
        return self._turn(False)

    def _turn(self, enabled: bool) -> Response:
        instance = self.get_object()
        if instance.enabled != enabled:
            instance.enabled = enabled
            instance.save(update_fields=["enabled", "updated_at"])
        self.publish(f"instance {instance.key} {'enabled' if enabled else 'drained'}")
        return Response(self.get_serializer(instance).data)
